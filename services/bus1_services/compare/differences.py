"""differences: where two services differ, as plain data.

Theory. What must differ is made equal first: each service's own unique name, that of whoever asks, and object
paths that nobody can guess, which stand for whatever the other has in that place. Then descriptions are
compared line by line, outcomes part by part: the error, or signature and values, then the signals.

Not here: asking (``party``), words for people (``verb``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ..body import Variant
from ..handle import CAPABILITY_PREFIX
from ..migrate.description import Argument, Described, Method, Property, Signal, joined
from ..plain import to_words
from ..types import Type, parse, single
from .questions import PROPERTIES, Heard, Outcome, Question

if TYPE_CHECKING:
    from ..migrate.asking import Told

_DOC_STRING = "org.gtk.GDBus.DocString"
_UNGUESSABLE = f"{CAPABILITY_PREFIX}*"


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where the two differ; ``old`` and ``new`` are what is there, in words."""

    what: str
    path: str
    key: str
    old: str
    new: str
    question: str = ""


# ---- descriptions ----------------------------------------------------------------------------------


def of_descriptions(
    old: Told, new: Told, *, strict: bool, ignored: Sequence[str] = ()
) -> list[Difference]:
    """Interfaces, at which paths they are, and their members; names of arguments and texts if ``strict``."""
    found = []
    for name in sorted({*old.interfaces, *new.interfaces}):
        if any(fnmatchcase(name, pattern) for pattern in ignored):
            continue
        paths = [set(side.paths.get(name, ())) for side in (old, new)]
        for path in sorted(paths[0] ^ paths[1]):
            before, after = ("there" if path in side else "missing" for side in paths)
            found.append(Difference("interface", path, name, before, after))
        if name in old.interfaces and name in new.interfaces:
            found += _of_members(old.interfaces[name], new.interfaces[name], strict=strict)
    return found


def _of_members(old: Described, new: Described, *, strict: bool) -> list[Difference]:
    lines = [_lines(described, strict=strict) for described in (old, new)]
    found = []
    for key in dict.fromkeys([*lines[0], *lines[1]]):
        before, after = (side.get(key, "missing") for side in lines)
        if before != after:
            found.append(Difference("description", old.path, f"{old.name}.{key[1]}", before, after))
    return found


def _lines(described: Described, *, strict: bool) -> dict[tuple[str, str, str], str]:
    """What is said of each member; of the interface itself under no name."""
    lines = {("", "", ""): " ".join(_notes(described.annotations, strict=strict)) or "no annotations"}
    for member in described.members:
        notes = _notes(member.annotations, strict=strict) + (["deprecated"] if member.deprecated else [])
        match member:
            case Method():
                key = ("method", member.name, joined(member.inputs))
                words = [f"({_of(member.inputs, strict)}) -> ({_of(member.outputs, strict)})"]
                notes += ["no reply"] if member.no_reply else []
            case Signal():
                key, words = ("signal", member.name, ""), [f"({_of(member.arguments, strict)})"]
            case Property():
                access = ("read" if member.readable else "") + ("write" if member.writable else "")
                key = ("property", member.name, "")
                words = [f"{member.signature} {access} emits={member.emits}"]
        lines[key] = " ".join([key[0], *words, *notes])
    return lines


def _of(arguments: Iterable[Argument], strict: bool) -> str:
    if not strict:
        return joined(arguments)
    return ", ".join(f"{argument.name}:{argument.signature}" for argument in arguments)


def _notes(annotations: Mapping[str, str], *, strict: bool) -> list[str]:
    counted = [(name, value) for name, value in sorted(annotations.items()) if strict or name != _DOC_STRING]
    return [f"{name}={value!r}" for name, value in counted]


# ---- outcomes --------------------------------------------------------------------------------------


def of_outcomes(
    question: Question, old: Outcome, new: Outcome, *, strict: bool, ignored: Sequence[str] = ()
) -> list[Difference]:
    """The error or the values, then the signals; values of what matches ``ignored`` count as equal."""
    asked = to_words(question.signature, question.values)
    found = []
    answers = [_answer(question, outcome, ignored, strict) for outcome in (old, new)]
    if not _same(answers[0], answers[1]):
        found.append(Difference("answer", question.path, question.key, _told(old), _told(new), asked))
    signals = [[_signal(each, ignored) for each in outcome.signals] for outcome in (old, new)]
    if not _same(signals[0], signals[1]):
        before, after = ("; ".join(map(_heard, outcome.signals)) or "none" for outcome in (old, new))
        found.append(Difference("signals", question.path, question.key, before, after, asked))
    return found


def _answer(question: Question, outcome: Outcome, ignored: Sequence[str], strict: bool) -> tuple[Any, ...]:
    if outcome.error:
        return (outcome.error, outcome.text) if strict else (outcome.error,)
    interface = question.values[0] if question.key == f"{PROPERTIES}.GetAll" and question.values else ""
    return (outcome.signature, _without(question.key, interface, outcome.values, ignored))


def _signal(heard: Heard, ignored: Sequence[str]) -> tuple[Any, ...]:
    key = f"{heard.interface}.{heard.member}"
    interface = heard.values[0] if key == f"{PROPERTIES}.PropertiesChanged" and heard.values else ""
    return (heard.path, key, heard.signature, _without(key, interface, heard.values, ignored))


def _without(key: str, interface: str, values: tuple[Any, ...], ignored: Sequence[str]) -> tuple[Any, ...]:
    """What counts of the values; ``interface`` is that of a dict of properties, if there is one."""

    def is_ignored(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in ignored)

    if is_ignored(key):
        return ()
    if not interface:
        return values
    return tuple(
        {name: None if is_ignored(f"{interface}.{name}") else item for name, item in value.items()}
        if isinstance(value, dict) else value for value in values
    )


def _same(a: Any, b: Any) -> bool:
    """Equal, where a path that nobody can guess is equal to any."""
    if isinstance(a, Variant) and isinstance(b, Variant):
        return a.signature == b.signature and _same(a.value, b.value)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, str) and isinstance(b, str) and _UNGUESSABLE in {a, b}:
        return a[:1] == b[:1] == "/"
    return bool(a == b) or (a != a and b != b)


def _told(outcome: Outcome) -> str:
    if outcome.error:
        return f"error {outcome.error}: {outcome.text}" if outcome.text else f"error {outcome.error}"
    return to_words(outcome.signature, outcome.values) or "nothing"


def _heard(heard: Heard) -> str:
    return f"{heard.path} {heard.interface}.{heard.member} {to_words(heard.signature, heard.values)}".rstrip()


# ---- what must differ ------------------------------------------------------------------------------


def neutral(outcome: Outcome, names: Mapping[str, str]) -> Outcome:
    """The outcome with these texts replaced, and with unguessable paths made equal."""

    def change(code: str, text: str) -> str:
        return _UNGUESSABLE if text.startswith(CAPABILITY_PREFIX) else names.get(text, text)

    signals = tuple(
        replace(each, path=change("o", each.path), values=changed(each.signature, each.values, change))
        for each in outcome.signals
    )
    return replace(outcome, values=changed(outcome.signature, outcome.values, change), signals=signals)


def changed(
    signature: str, values: Sequence[Any], change: Callable[[str, str], str]
) -> tuple[Any, ...]:
    """The values with every text and path given to ``change``, with its type."""
    pairs = zip(parse(signature), values, strict=True)
    return tuple(_changed(type_, value, change) for type_, value in pairs)


def _changed(type_: Type, value: Any, change: Callable[[str, str], str]) -> Any:
    match type_.code:
        case "s" | "o":
            return change(type_.code, str(value))
        case "v":
            return Variant(value.signature, _changed(single(value.signature), value.value, change))
        case "(":
            pairs = zip(type_.inside, value, strict=True)
            return tuple([_changed(inside, item, change) for inside, item in pairs])
        case "a" if type_.inside[0].code == "{":
            key, item = type_.inside[0].inside
            return {_changed(key, k, change): _changed(item, v, change) for k, v in value.items()}
        case "a" if type_.inside[0].code != "y":
            return [_changed(type_.inside[0], item, change) for item in value]
    return value
