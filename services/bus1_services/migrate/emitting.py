"""emitting: signals, and changes of properties, where the bodies of a class emit them.

Theory. Natively, to emit is to wait. Where a function is async, or becomes so, it waits; where it cannot,
``soon`` does. A setter's own change is told natively, and nowhere else.

Not here: which functions become async (``planning``), members (``rewriting``).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from .aids import Aids
from .borrowing import Borrowed
from .declared import Part
from .description import Property, Signal
from .planning import Plan, Site, changed_properties, refers_to, returns_arguments, told_here
from .program import Program
from .report import Kind


def wrapped(borrowed: Borrowed, part: Part, signature: str, many: int) -> tuple[str, str]:
    """What stands around a value that leaves, so that its variants are native; ``many``: a struct."""
    if part.shape != "pairs" or "v" not in signature or not many:
        return "", ""
    whole = f"({signature})" if many > 1 else signature
    return f'{borrowed("unpaired")}("{whole}", ', ")"


@dataclass
class Emitting:
    """One class of a program."""

    program: Program
    plan: Plan
    borrowed: Borrowed
    aids: Aids

    def __post_init__(self) -> None:
        self.segments = self.program.segments

    def run(self) -> None:
        """Change the places."""
        if self.plan.declared.keeps_names:
            self._asynchronous_properties()
        for site in self.plan.sites:
            self._site(site)
        if not self.plan.declared.keeps_names:
            self._callbacks()

    def _site(self, site: Site) -> None:
        node, within, part = site.node, site.within, site.part
        may_wait = isinstance(within, ast.AsyncFunctionDef) or within in self.plan.waits
        if isinstance(node, ast.stmt):
            assert part is not None
            self._assignment(node, part, may_wait)
        elif part is not None:
            self._emission(node, part, may_wait)
        elif site.target is not None:
            if site.target in self.plan.waits:
                self._wait(node, may_wait)
        elif changed_properties(self.program, self.plan, site) is None:
            self._told(node, may_wait)
        else:
            calls = [
                self._now(f"self.{name}.changed()", may_wait)
                for name in told_here(self.program, self.plan, site)
            ]
            self._statements(node, calls)

    def _told(self, node: ast.expr, may_wait: bool) -> None:
        """Names that are known when it happens."""
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if given and "." in (self.program.text(given[0]) or ""):
            given = given[1:]
        texts = [self.segments.original(value) for value in given]
        owner = self.segments.original(node.func.value)
        self._statements(
            node, [self._now(f"{self.aids('properties_changed')}({', '.join([owner, *texts])})", may_wait)]
        )

    def _callbacks(self) -> None:
        """What emits when something else calls it: a signal, or a change, that is handed on."""
        called = {id(site.node.func) for site in self.plan.sites if isinstance(site.node, ast.Call)}
        called |= {
            id(site.node.func.value)
            for site in self.plan.sites
            if isinstance(site.node, ast.Call) and isinstance(site.node.func, ast.Attribute)
        }
        for node in ast.walk(self.program.tree):
            if not isinstance(node, ast.Attribute) or id(node) in called:
                continue
            if refers_to(self.program, node, [self.plan]) is not self.plan:
                continue
            parent, part = self.program.parents[node], self.plan.part(node.attr)
            owner = self.segments.original(node.value)
            if node.attr == "watch_property" and isinstance(parent, ast.Call) and len(parent.args) == 2:
                self._watch(parent, owner)
            elif node.attr == "flush_changes" and owner == "self":
                self.segments.replace_node(node, "(lambda *values: None)")
            elif part is not None and isinstance(part.member, Signal):
                if isinstance(parent, ast.Call) and node in parent.args:
                    name = (
                        self.plan.emitter(part)
                        if returns_arguments(self.plan, part)
                        else (self.plan.attributes[part.python])
                    )
                    text = f"lambda *values: {self.aids('soon')}({owner}.{name}(*values))"
                    self.segments.replace_node(node, text)
                else:
                    self._lose(node, "a signal is used in another way than to be emitted")

    def _watch(self, call: ast.Call, owner: str) -> None:
        """dasbus: tell of a change whenever another signal is emitted."""
        part = self.plan.property(self.program.text(call.args[0]) or "")
        if part is None:
            self._lose(call, "which property is watched cannot be told from the text")
            return
        signal = self.segments.original(call.args[1])
        changed = f"{owner}.{self.plan.attributes[part.python]}.changed()"
        text = f"{signal}.connect(lambda *values: {self.aids('soon')}({changed}))"
        self.segments.replace_node(call, text)

    def _lose(self, node: ast.expr, why: str) -> None:
        what = self.segments.original(node).split("\n")[0]
        self.program.tell(node, Kind.LOST, what, why, "write it anew")
        self.segments.replace_node(node, self.aids.lost(self.program, node, what))

    def _emission(self, node: ast.expr, part: Part, may_wait: bool) -> None:
        assert isinstance(node, ast.Call) and isinstance(part.member, Signal)
        function = node.func
        assert isinstance(function, ast.Attribute)
        is_emit = function.attr == "emit" and isinstance(function.value, ast.Attribute)
        named = function.value if is_emit else function
        assert isinstance(named, ast.Attribute)
        computes = returns_arguments(self.plan, part)
        name = self.plan.emitter(part) if computes else self.plan.attributes[part.python]
        receiver_end = self.segments.span(named.value)[1]
        self.segments.replace(receiver_end, self.segments.span(function)[1], f".{name}")
        if self.plan.declared.keeps_names and len(node.args) == 1:
            many = len(part.member.arguments)
            before, after = wrapped(
                self.borrowed, part, "".join(a.signature for a in part.member.arguments), many
            )
            if not many:
                self.segments.replace_node(node.args[0], "")
            else:
                self.segments.surround(node.args[0], f"{'*' * (many > 1)}{before}", after)
        self._wait(node, may_wait)

    def _asynchronous_properties(self) -> None:
        """sdbus: ``self.level.set_async(3)`` and ``self.level.get_async()``."""
        for node in ast.walk(self.program.tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            function, named = node.func, node.func.value
            if function.attr not in {"set_async", "get_async"} or not isinstance(named, ast.Attribute):
                continue
            part = self.plan.part(named.attr)
            if part is None or not isinstance(part.member, Property):
                continue
            end = self.segments.span(function)[1]
            if function.attr == "set_async" and not part.member.writable:
                self.segments.replace(self.segments.span(named.value)[1], end, f"._assign_{named.attr}")
            else:
                self.segments.replace(
                    self.segments.span(named)[1], end, f".{function.attr.removesuffix('_async')}"
                )
            before, after = wrapped(self.borrowed, part, part.member.signature, 1)
            if before and function.attr == "set_async" and node.args:
                self.segments.surround(node.args[0], before, after)

    def _wait(self, node: ast.expr, may_wait: bool) -> None:
        parent = self.program.parents[node]
        if isinstance(parent, ast.Await):
            return
        if not may_wait:
            self.segments.surround(node, f"{self.aids('soon')}(", ")")
            return
        alone = isinstance(parent, ast.Expr | ast.Return | ast.Assign | ast.AnnAssign)
        self.segments.surround(node, "await " if alone else "(await ", "" if alone else ")")

    def _now(self, call: str, may_wait: bool) -> str:
        return f"await {call}" if may_wait else f"{self.aids('soon')}({call})"

    def _statements(self, node: ast.expr, calls: list[str]) -> None:
        """Calls in place of one that is a statement."""
        statement = self.program.parents[node]
        if not isinstance(statement, ast.Expr):
            self.segments.replace_node(node, calls[0] if len(calls) == 1 else "None")
            return
        indent = self.segments.indent_of(statement)
        body = [b for b in ast.iter_fields(self.program.parents[statement]) if isinstance(b[1], list)]
        is_only = any(statement in block and len(block) == 1 for _, block in body)
        if calls or is_only:
            self.segments.replace_node(statement, f"\n{indent}".join(calls) or "pass")
        else:
            self.segments.replace(*self.segments.lines_of(statement), "")

    def _assignment(self, node: ast.stmt, part: Part, may_wait: bool) -> None:
        """``self.Level = 3``: the setter, and that it has changed, if the setter told so."""
        assert isinstance(node, ast.Assign | ast.AugAssign) and part.setter is not None
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        assert isinstance(target, ast.Attribute)
        owner = self.segments.text(*self.segments.span(target.value))
        set_ = f"{owner}.{self.plan.setter(part)}"
        waits = part.setter in self.plan.waits
        start, value = self.segments.span(node)[0], self.segments.span(node.value)[0]
        opening, closing = f"{set_}(", ")"
        if isinstance(node, ast.AugAssign):
            sign = {"Add": "+", "Sub": "-", "Mult": "*"}.get(type(node.op).__name__, "")
            opening, closing = f"{set_}({owner}.{part.python} {sign or '+'} (", "))"
            if not sign:
                self.program.tell(
                    node, Kind.LOST, "an assignment", "of a kind that is not known", "write it out"
                )
        if waits:
            opening = f"await {opening}" if may_wait else f"{self.aids('soon')}({opening}"
            closing += "" if may_wait else ")"
        self.segments.replace(start, value, opening)
        end = self.segments.span(node)[1]
        after = ""
        if part.python in self.plan.tells_itself:
            changed = f"{owner}.{self.plan.attributes[part.python]}.changed()"
            after = f"\n{self.segments.indent_of(node)}{self._now(changed, may_wait)}"
        self.segments.replace(end, end, closing + after)
