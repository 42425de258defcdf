"""planning: what becomes of the members of interface classes, and which functions have to wait.

Theory. A member that nothing in the program refers to becomes a native member where it stands. One that the
program itself uses stays, under its name, and the native member beside it uses it. Setters move in any case.

To emit is to wait, natively. A function that emits, or calls one that does, becomes ``async``, if all that
refer to it can wait for it. What cannot wait, because it is a callback or a constructor, lets it happen soon.

Invariants. 1. A function that waits is async, and each call of it is awaited.

Not here: changes of the text (``rewriting``).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .declared import Declared, Part
from .description import Method, Property, Signal
from .naming import Names
from .program import Function, Program
from .report import Kind

_INTERFACE = ("unreferenced", "mro")
_CHANGES = {
    "emit_properties_changed",
    "PropertiesChanged",
    "properties_changed",
    "report_changed_property",
    "flush_changes",
}
"""What the libraries call to tell that properties have changed."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place that emits, or that calls a function of the class which may; ``target`` is that function."""

    node: ast.expr | ast.stmt
    within: Function | ast.Lambda | None
    target: Function | None = None
    part: Part | None = None
    """The signal that is emitted, or the property that is assigned."""


@dataclass
class Plan:
    """One interface class on its way."""

    declared: Declared
    attributes: dict[str, str] = field(default_factory=dict)
    """Native names by Python's names before."""
    kept: set[str] = field(default_factory=set)
    bases: list[str] = field(default_factory=list)
    """Classes of the interfaces that are declared apart."""
    sites: list[Site] = field(default_factory=list)
    waits: set[Function] = field(default_factory=set)
    """Functions that become async."""
    tells_itself: set[str] = field(default_factory=set)
    """Properties whose setters told that they have changed."""

    def __post_init__(self) -> None:
        parts = self.declared.parts
        self._parts = {part.python: part for part in parts}
        self._properties = {part.member.name: part for part in parts if isinstance(part.member, Property)}

    def part(self, python: str) -> Part | None:
        """The member of this name."""
        return self._parts.get(python)

    def property(self, name: str) -> Part | None:
        """The property that has this name on the bus."""
        return self._properties.get(name)

    def setter(self, part: Part) -> str:
        """What the setter of a property is called natively."""
        return f"_set_{self.attributes[part.python]}"

    def emitter(self, part: Part) -> str:
        """What emits a signal that is a function which gives its arguments."""
        return f"_emit_{self.attributes[part.python]}"


def plan_all(program: Program, declared: list[Declared], paths: Sequence[set[str]]) -> list[Plan]:
    """Decide for all classes of a program; ``paths`` are where each has objects.

    Those at one path are one object, in which each member has a name of its own."""
    plans: list[Plan] = []
    for each, there in zip(declared, paths, strict=True):
        beside = (plan for plan, others in zip(plans, paths, strict=False) if others & there)
        taken = {name for plan in beside for name in plan.attributes.values()}
        plan = _named(program, each, taken)
        if both := taken & set(plan.attributes.values()):
            why = f"another object at its path has {', '.join(sorted(both))}, too"
            advice = "rename them in one, with name="
            program.tell(each.node, Kind.LOST, f"class {each.node.name}", why, advice)
        plans.append(plan)
    for plan in plans:
        _find_sites(program, plan, plans)
    for plan in plans:
        _decide_waiting(program, plan)
    return plans


# ---- names -----------------------------------------------------------------------------------------


def _named(program: Program, declared: Declared, beside: set[str]) -> Plan:
    plan, node = Plan(declared), declared.node
    for part in declared.parts:
        if isinstance(part.member, Signal) or declared.keeps_names:
            continue
        if part.function is None or _is_read(program, part):
            plan.kept.add(part.python)
    converted = {part.python for part in declared.parts} - plan.kept
    taken = {
        a.attr
        for a in ast.walk(node)
        if isinstance(a, ast.Attribute) and isinstance(a.value, ast.Name) and a.value.id in {"self", "cls"}
    }
    taken |= {statement.name for statement in node.body if isinstance(statement, Function)}
    taken |= {
        target.id
        for statement in node.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    names = Names("self", *_INTERFACE, *(taken - converted), *beside)
    for part in declared.parts:
        plan.attributes[part.python] = part.python if declared.keeps_names else names.member(part.member.name)
    return plan


def _is_read(program: Program, part: Part) -> bool:
    """Some place uses a method, or reads a property: more than to assign it."""
    return any(
        not (
            isinstance(part.member, Property)
            and isinstance(attribute.ctx, ast.Store)
            and isinstance(program.parents[attribute], ast.Assign)
        )
        for attribute in program.attributes.get(part.python, ())
    )


# ---- places that emit ------------------------------------------------------------------------------


def refers_to(program: Program, attribute: ast.Attribute, plans: list[Plan]) -> Plan | None:
    """The class whose member an attribute is: that of ``self``, or the only one that has such a member."""
    if isinstance(attribute.value, ast.Name) and attribute.value.id == "self":
        owner = program.enclosing_class(attribute)
        return next((plan for plan in plans if plan.declared.node is owner), None)
    having = [plan for plan in plans if plan.part(attribute.attr) is not None]
    return having[0] if len(having) == 1 else None


def _find_sites(program: Program, plan: Plan, plans: list[Plan]) -> None:
    functions = {f.name: f for f in plan.declared.node.body if isinstance(f, Function)}
    for node in ast.walk(program.tree):
        if isinstance(node, ast.Assign | ast.AugAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if not isinstance(target, ast.Attribute) or refers_to(program, target, plans) is not plan:
                continue
            part = plan.part(target.attr)
            if part is not None and part.setter is not None and not plan.declared.keeps_names:
                plan.sites.append(Site(node, program.enclosing(node), part.setter, part))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        attribute, within = node.func, program.enclosing(node)
        if attribute.attr == "emit" and isinstance(attribute.value, ast.Attribute):
            attribute = attribute.value
        if refers_to(program, attribute, plans) is not plan:
            continue
        part = plan.part(attribute.attr)
        if part is not None and isinstance(part.member, Signal):
            emitter = part.function if returns_arguments(plan, part) else None
            plan.sites.append(Site(node, within, emitter, part))
        elif attribute.attr in _CHANGES:
            plan.sites.append(Site(node, within))
        elif (part is None or isinstance(part.member, Method)) and attribute.attr in functions:
            plan.sites.append(Site(node, within, functions[attribute.attr]))
    for site in plan.sites:
        for name in changed_properties(program, plan, site) or {}:
            part = plan.property(name)
            if part is not None and part.setter is not None and site.within is part.setter:
                plan.tells_itself.add(part.python)
    _note_invalidated(program, plan)


def _note_invalidated(program: Program, plan: Plan) -> None:
    """A property that is never told with its value is declared so that it is not natively, either."""
    valued: dict[str, None] = {}
    invalid: dict[str, ast.expr] = {}
    for site in plan.sites:
        if not isinstance(site.node, ast.Call) or site.part is not None or site.target is not None:
            continue
        changed, invalidated = _groups(program, site.node)
        valued |= _names(program, changed) or {}
        for name in _names(program, invalidated) or {}:
            invalid.setdefault(name, site.node)
        if changed_properties(program, plan, site) is None and invalidated:
            what = ", ".join(ast.unparse(value) for value in invalidated)
            why = "which properties these are cannot be told from the text; their values are told"
            program.tell(site.node, Kind.CHANGED, what, why, 'emits="invalidates", where clients must ask')
    for name, node in invalid.items():
        part = plan.property(name)
        if part is None or not isinstance(part.member, Property) or part.member.emits != "true":
            continue
        if name in valued:
            why = "told to be invalid here, and with its value elsewhere; natively always with its value"
            program.tell(node, Kind.CHANGED, name, why, 'nothing; or emits="invalidates"')
        else:
            part.member = replace(part.member, emits="invalidates")


def returns_arguments(plan: Plan, part: Part) -> bool:
    """The function of a signal computes its arguments, in dbus-fast's way, and does not hand on its own."""
    if part.function is None or plan.declared.keeps_names or _hands_on(part.function):
        return False
    return any(
        isinstance(decorator, ast.Call) and not isinstance(decorator.func, ast.Call)
        for decorator in part.function.decorator_list
    )


def _hands_on(function: Function) -> bool:
    """The arguments of the signal are those of the function."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    names = [arg.arg for arg in function.args.args[1:]]
    match body:
        case [] | [ast.Pass()] | [ast.Expr(value=ast.Constant())] | [ast.Return(value=None)]:
            return not names
        case [ast.Return(value=ast.Name(id=name))]:
            return names == [name]
        case [ast.Return(value=ast.List(elts=elements) | ast.Tuple(elts=elements))]:
            return names == [element.id if isinstance(element, ast.Name) else "" for element in elements]
    return False


def changed_properties(program: Program, plan: Plan, site: Site) -> Mapping[str, None] | None:
    """The properties that a site tells have changed, by their names on the bus; None if that is not clear."""
    if not isinstance(site.node, ast.Call) or site.part is not None or site.target is not None:
        return None
    changed, invalidated = _groups(program, site.node)
    names = _names(program, [*changed, *invalidated])
    return names if names is not None and all(plan.property(name) for name in names) else None


def _groups(program: Program, call: ast.Call) -> tuple[list[ast.expr], list[ast.expr]]:
    """Where a call tells which properties have changed: those with values, and those that are invalid."""
    given, keywords = list(call.args), {keyword.arg: keyword.value for keyword in call.keywords}
    if len(given) == 1 and isinstance(given[0], ast.Tuple):
        given = list(given[0].elts)
    if given and "." in (program.text(given[0]) or ""):
        given = given[1:]
    invalid = [value for name, value in keywords.items() if name and name.startswith("invalidated")]
    rest = [value for value in keywords.values() if value not in invalid]
    return given[:1] + rest, given[1:] + invalid


def _names(program: Program, given: list[ast.expr]) -> dict[str, None] | None:
    names: dict[str, None] = {}
    for value in given:
        keys: Sequence[ast.expr | None] = value.keys if isinstance(value, ast.Dict) else [value]
        for key in keys:
            name = program.constant(key)
            if name is None:
                return None
            names |= dict.fromkeys([name] if isinstance(name, str) else name)
    return names


# ---- who waits -------------------------------------------------------------------------------------


def _decide_waiting(program: Program, plan: Plan) -> None:
    functions = [f for f in ast.walk(plan.declared.node) if isinstance(f, ast.FunctionDef)]
    able = {f for f in functions if _may_wait(program, plan, f)}
    while True:
        unable = {
            f for f in able if any(site.target is f and not _can(site.within, able) for site in plan.sites)
        }
        if not unable:
            break
        able -= unable
    while True:
        more = {
            site.within
            for site in plan.sites
            if isinstance(site.within, ast.FunctionDef)
            and site.within in able - plan.waits
            and _waits(program, plan, site)
        }
        if not more:
            return
        plan.waits |= more


def _waits(program: Program, plan: Plan, site: Site) -> bool:
    """What happens at a site is something to wait for."""
    if site.part is not None and isinstance(site.part.member, Property):
        return site.part.python in plan.tells_itself or site.target in plan.waits
    if site.part is not None:
        return True
    if site.target is None:
        return changed_properties(program, plan, site) is None or bool(told_here(program, plan, site))
    return site.target in plan.waits


def told_here(program: Program, plan: Plan, site: Site) -> list[str]:
    """The native names of properties that a site has to tell have changed; a setter's own need not be."""
    names = changed_properties(program, plan, site) or {}
    parts = [part for name in names if (part := plan.property(name)) is not None]
    return [plan.attributes[part.python] for part in parts if part.setter is not site.within]


def _can(within: Function | ast.Lambda | None, able: set[ast.FunctionDef]) -> bool:
    return isinstance(within, ast.AsyncFunctionDef) or (
        isinstance(within, ast.FunctionDef) and within in able
    )


def _may_wait(program: Program, plan: Plan, function: ast.FunctionDef) -> bool:
    """It could be async for all that is known of it alone."""
    if program.parents[function] is not plan.declared.node or function.name.startswith("__"):
        return False
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(function)):
        return False
    parts = plan.declared.parts
    part = next((part for part in parts if function in (part.function, part.setter)), None)
    if part is not None and isinstance(part.member, Signal):
        return True
    if part is not None and function is part.setter:
        return True
    if part is not None and plan.declared.keeps_names:
        return False
    if part is not None and (isinstance(part.member, Property) or part.python not in plan.kept):
        return part.python not in plan.kept
    marks = {ast.unparse(decorator) for decorator in function.decorator_list}
    if marks & {"property", "staticmethod", "classmethod"} or any(".setter" in mark for mark in marks):
        return False
    called = {site.node.func for site in plan.sites if isinstance(site.node, ast.Call)}
    return all(attribute in called for attribute in program.attributes.get(function.name, ()))
