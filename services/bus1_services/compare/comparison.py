"""comparison: ask two services the same, side by side, and collect where they differ.

Theory. First what they say of themselves, then the questions in order, each to both before the next, and in
the end their properties, which show what the questions have done to them.

Not here: words for people (``verb``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from ..migrate.asking import Told
from ..migrate.description import Described
from .differences import Difference, of_descriptions, of_outcomes
from .party import Party, Patience, party
from .questions import Question, probes, readings
from .staging import Side, staged


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked, and how it is judged."""

    questions: Sequence[Question]
    probes: bool = True
    path: str = "/"
    strict: bool = False
    ignored: Sequence[str] = ()
    patience: Patience = field(default_factory=Patience)


@dataclass(slots=True)
class Comparison:
    """How much was asked, what was left out, and where the two differ."""

    n_asked: int = 0
    left_out: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


async def compare(old: Side, new: Side, plan: Plan) -> Comparison:
    """Ask both; AskingError, StagingError if one of them is not to be had."""
    async with AsyncExitStack() as stack:
        parties = []
        for side in (old, new):
            address = await stack.enter_async_context(staged(side, plan.patience.answer))
            parties.append(await stack.enter_async_context(party(address, side.name, plan.patience)))
        return await _compare(parties[0], parties[1], plan)


async def _compare(old: Party, new: Party, plan: Plan) -> Comparison:
    result = Comparison()
    told, theirs = [await side.describe(plan.path) for side in (old, new)]
    for side, name in ((told, "old"), (theirs, "new")):
        result.left_out += [f"{name}: {complaint}" for complaint in side.complaints]
    result.differences += of_descriptions(told, theirs, strict=plan.strict, ignored=plan.ignored)
    there = _in_both(told, theirs)
    if plan.probes:
        for question in probes(there):
            await _ask(old, new, question, plan, result)
    for question in plan.questions:
        if "h" in question.signature:
            result.left_out.append(f"{question.path} {question.key}: its descriptors are not to be had again")
        else:
            await _ask(old, new, question, plan, result)
    if plan.questions:
        for described, path in there:
            for question in readings(described, path)[:1]:
                await _ask(old, new, question, plan, result)
    return result


def _in_both(old: Told, new: Told) -> list[tuple[Described, str]]:
    """The interfaces that both have at one path, as the old one describes them."""
    return [
        (described, path) for name, described in old.interfaces.items()
        for path in old.paths[name] if path in new.paths.get(name, ())
    ]


async def _ask(old: Party, new: Party, question: Question, plan: Plan, result: Comparison) -> None:
    before, after = await old.ask(question), await new.ask(question)
    result.n_asked += 1
    found = of_outcomes(question, before, after, strict=plan.strict, ignored=plan.ignored)
    result.differences += [each for each in found if each not in result.differences]
