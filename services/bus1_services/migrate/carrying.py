"""carrying: a native package out of a Python program that serves D-Bus with another library.

Theory. The program is changed in place: imports of the library, heads of classes and members, places that
emit, what bodies use of the library. All else stays as it was written, comments included. What brought it to
the bus is left out, and ``service()`` is written in its place. The bodies are of others, and were written for
another library: linters and type checkers are told to pass over the module until somebody takes these
lines out.

Invariants. 1. The module that is written is Python. 2. Each place that raises NotImplementedError is a
finding of kind ``lost``, with its line.

Not here: reports as text (``report``).
"""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Sequence

from .aids import Aids
from .authority import note_authority
from .borrowing import Borrowed
from .layout import Group, Item, Pair, lay_out, literal
from .placing import Placed
from .planning import Plan, plan_all
from .program import LIBRARIES, Function, Program, read_program
from .reading import SourceError
from .report import Finding, Kind
from .rewriting import Rewriting
from .sources import SOURCES
from .sources.pydbus import xml_of
from .translating import translate
from .wiring import Wiring, find_wiring
from .writing import client_module, test_module

_HEADER = """\
# Carried over from {file}. The bodies are as they were; take the next two lines out to have them checked.
# mypy: ignore-errors
# ruff: noqa
"""


def carry(
    file: str, content: bytes, package: str, bus_name: str | None
) -> tuple[dict[str, str], list[Finding]]:
    """The modules of a package, by file name, and what there is to say about them. SourceError."""
    program = read_program(file, content)
    used = {
        LIBRARIES[name.partition(".")[0]]
        for name in [*program.imports.values(), *program.stars]
        if name.partition(".")[0] in LIBRARIES
    }
    declared = [
        found
        for library in SOURCES
        if library in used | {"pydbus"}
        for found in SOURCES[library].declared(program)
    ]
    if not declared and program.findings:
        first = program.findings[0]
        raise SourceError(f"{file}:{first.line}: {first.what}: {first.why}")
    if not declared:
        raise SourceError(
            f"{file}: no interface of a service is declared, in the ways of dbus-fast, dbus-next, dasbus, "
            "pydbus or sdbus"
        )
    note_authority(program)
    wiring = find_wiring(program)
    plans = plan_all(program, declared, [_paths_of(program, each.node, wiring) for each in declared])
    placed, objects = _places(program, plans, wiring)
    name = bus_name or (wiring.names or [plans[0].declared.interface])[0]
    if not bus_name and not wiring.names:
        program.tell(
            None,
            Kind.CHANGED,
            "the name on the bus",
            f"none is asked for in this file; {name} is written",
            "say --name",
        )
    borrowed = Borrowed(program)
    constant = "NAME" if program.text(ast.Name("NAME")) == name else borrowed.free("NAME")
    text = _service(program, plans, wiring, objects, name, constant, borrowed)
    try:
        # the parser alone takes an ``await`` anywhere
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "service.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise SourceError(f"{file}: cannot be carried over: it would read {error.text!r}") from None
    modules = {
        "__init__.py": '"""A service, and a client for it."""\n',
        "service.py": text,
        "client.py": client_module(placed, constant),
        f"test_{package}.py": test_module(placed, [path for path, _ in objects], constant),
    }
    return modules, sorted(program.findings, key=lambda finding: finding.line)


def _places(
    program: Program, plans: list[Plan], wiring: Wiring
) -> tuple[list[Placed], list[tuple[str, list[ast.expr]]]]:
    """Where an object of each class is, and all objects."""
    objects = list(wiring.objects)
    placed = []
    for plan in plans:
        node = plan.declared.node
        known = _paths_of(program, node, wiring)
        path = next((path for path, _ in objects if path in known), None)
        if path is None:
            path = "/" + plan.declared.interface.replace(".", "/")
            if path not in dict(objects) and _needs_nothing(program, node):
                objects.append((path, [ast.parse(f"{node.name}()", mode="eval").body]))
                why, advice = "nobody exports it in this file", f"an object of it is at {path}"
                program.tell(node, Kind.CHANGED, f"class {node.name}", why, advice)
            elif not wiring.objects:
                program.tell(
                    node,
                    Kind.LOST,
                    f"class {node.name}",
                    "nobody exports it in this file, and it needs arguments",
                    "put an object of it into the objects of service()",
                )
        placed.append(Placed(plan.declared.described(plan.declared.interface), node.name, path))
    return placed, objects


def _paths_of(program: Program, node: ast.ClassDef, wiring: Wiring) -> set[str]:
    """Where the program exports objects of a class, as far as it can be seen."""
    names = {node.name} | {
        target.id
        for statement in ast.walk(program.tree)
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Name)
        and statement.value.func.id == node.name
    }
    if _publishes(program, node):
        names.add("for_publication")
    return {path for path, values in wiring.objects if names & set(map(_root, values))}


def _publishes(program: Program, node: ast.ClassDef) -> bool:
    """An object of the program is published as one of this class, by ``for_publication``."""
    functions = (f for f in ast.walk(program.tree) if isinstance(f, Function) and f.name == "for_publication")
    return any(
        isinstance(name, ast.Name) and name.id == node.name
        for function in functions
        for name in ast.walk(function)
    )


def _root(node: ast.expr) -> str:
    inner = node.func if isinstance(node, ast.Call) else node
    if isinstance(inner, ast.Attribute) and inner.attr == "for_publication":
        return inner.attr
    return inner.id if isinstance(inner, ast.Name) else ""


def _needs_nothing(program: Program, node: ast.ClassDef) -> bool:
    """It can be made without arguments, as far as this file tells."""
    for base in node.bases:
        library, name = program.library(base)
        if library and SOURCES[library].is_base(name):
            continue
        above = [c for c in program.classes() if isinstance(base, ast.Name) and c.name == base.id]
        is_object = isinstance(base, ast.Name) and base.id == "object"
        if not is_object and not (above and above[0] is not node and _needs_nothing(program, above[0])):
            return False
    init = next((f for f in node.body if isinstance(f, Function) and f.name == "__init__"), None)
    if init is None:
        return True
    return len(init.args.args) - len(init.args.defaults) <= 1 and all(d for d in init.args.kw_defaults)


# ---- the module ------------------------------------------------------------------------------------


def _service(
    program: Program,
    plans: list[Plan],
    wiring: Wiring,
    objects: Sequence[tuple[str, list[ast.expr]]],
    name: str,
    constant: str,
    borrowed: Borrowed,
) -> str:
    aids = Aids(borrowed)
    for plan in plans:
        Rewriting(program, plan, borrowed, aids).run()
    _drop_xml(program, plans)
    dropped = _dropped(wiring)
    translate(program, plans, borrowed, aids, dropped)
    _check_variables(program, wiring, aids, dropped)
    end = _end(program, wiring, objects, name, constant, borrowed, aids)
    for statement in wiring.dropped:
        program.segments.replace(*program.segments.lines_of(statement), "")
    _drop_imports(program)
    texts = aids.texts()
    bound = (
        ""
        if program.text(ast.Name(constant)) == name
        else lay_out(literal(name), 0, f"\n{constant} = ") + "\n"
    )
    extra = "import asyncio\n" if any("asyncio." in text for text in texts) else ""
    above = f"{extra}{borrowed.imports()}{bound}\n\n" + "\n\n".join(texts)
    return _assemble(program, above, end)


def _assemble(program: Program, above: str, end: str) -> str:
    """The parts in order: what has to be first, the new names, the program, the start."""
    body, segments, first = program.tree.body, program.segments, 0
    index = 0
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        index = 1
    while index < len(body) and isinstance(body[index], ast.ImportFrom) and _is_future(body[index]):
        segments.replace(*segments.lines_of(body[index]), "")
        index += 1
    if index:
        first = segments.lines_of(body[index - 1])[1]
    else:
        first = min(segments.lines_of(statement)[0] for statement in body[:1])
    shebang = ""
    while segments.source.startswith("#!", len(shebang)) or "coding" in _first_comment(
        segments.source[len(shebang) :]
    ):
        shebang += segments.source[len(shebang) :].partition("\n")[0] + "\n"
    start = segments.text(len(shebang), first).strip("\n")
    rest = segments.text(first).strip("\n")
    header = _HEADER.format(file=ascii(program.file)[1:-1].rpartition("/")[2])
    parts = [
        f"{shebang}{header}{start}\n" if start else f"{shebang}{header}",
        "from __future__ import annotations\n",
        above.rstrip("\n") + "\n",
        f"\n{rest}\n",
        f"\n{end}",
    ]
    return "\n".join(parts)


def _first_comment(text: str) -> str:
    line = text.partition("\n")[0]
    return line if line.startswith("#") else ""


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _dropped(wiring: Wiring) -> set[ast.AST]:
    """What is left out altogether: not the set-up, nor what is exported, inside of it."""
    kept = {inner for statement in [*wiring.setup, *wiring.beside] for inner in ast.walk(statement)}
    kept |= {inner for _, values in wiring.objects for value in values for inner in ast.walk(value)}
    return {inner for statement in wiring.dropped for inner in ast.walk(statement)} - kept


def _end(
    program: Program,
    wiring: Wiring,
    objects: Sequence[tuple[str, list[ast.expr]]],
    name: str,
    constant: str,
    borrowed: Borrowed,
    aids: Aids,
) -> str:
    """``service()``, and what runs it."""
    segments = program.segments
    pairs: list[Item] = []
    for path, values in objects:
        texts = [
            segments.text(*segments.span(value)) if value in program.parents else ast.unparse(value)
            for value in values
        ]
        made = f"{borrowed('together')}({', '.join(texts)})" if len(texts) > 1 else texts[0]
        pairs.append(f"{_flat(literal(path))}: {made}")
    names: list[Item] = [_flat(literal(other)) for other in wiring.names if other != name]
    objects_item = Group("", tuple(pairs), "{}")
    service = borrowed("Service")
    whole = Group(service, (literal(name), constant, *names, Pair("objects=", objects_item)))
    bound = {
        node.id
        for statement in wiring.setup
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    used = {
        node.id for statement in wiring.beside for node in ast.walk(statement) if isinstance(node, ast.Name)
    }
    doc = '    """The objects, under their names, where they were."""'
    shared = f"    global {', '.join(sorted(bound & used))}\n" if bound & used else ""
    text = "".join(
        [
            f"def service() -> {service}:\n{doc}\n{shared}",
            *(_moved(program, statement) for statement in wiring.setup),
            f"{lay_out(whole, 1, 'return ')}\n",
        ]
    )
    main = _main(program, wiring, borrowed, aids)
    run = "service().run(main)" if main else "service().run()"
    return f'{text}{main}\n\nif __name__ == "__main__":\n    {run}\n'


def _main(program: Program, wiring: Wiring, borrowed: Borrowed, aids: Aids) -> str:
    """What the program did beside serving."""
    if not wiring.beside and not wiring.started:
        return ""
    lines = [
        f"\n\nasync def main(connection: {borrowed('Connection')}) -> None:\n"
        '    """What is done beside serving, from when the objects are on the bus."""\n'
    ]
    for statement in wiring.started:
        what = program.segments.original(statement).split("\n")[0]
        lines.append(f"    {aids.lost(program, statement, what)}\n")
    for statement in wiring.beside:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id in wiring.loops and isinstance(node.ctx, ast.Load):
                program.segments.replace_node(node, "asyncio.get_running_loop()")
        lines.append(_moved(program, statement))
    return "".join([*lines, "    await connection.ended()\n"])


def _moved(program: Program, statement: ast.stmt) -> str:
    """A statement, with its changes, in the body of a new function."""
    segments = program.segments
    start, end = segments.span(statement)
    if decorators := getattr(statement, "decorator_list", []):
        start = segments.span(decorators[0])[0] - 1
    text = segments.indent_of(statement) + segments.text(start, end)
    return textwrap.indent(textwrap.dedent(text), "    ") + "\n"


def _flat(item: Item) -> str:
    return lay_out(item, 0)


def _drop_xml(program: Program, plans: list[Plan]) -> None:
    """XML in classes is not needed any more."""
    for plan in plans:
        if plan.declared.node.decorator_list or plan.declared.keeps_names:
            continue
        for statement, _ in xml_of(program, plan.declared.node):
            program.segments.replace(*program.segments.lines_of(statement), "")
        for statement in plan.declared.node.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id="PropertiesChanged")]):
                    program.segments.replace(*program.segments.lines_of(statement), "")


def _drop_imports(program: Program) -> None:
    """Imports of the libraries; GLib, unless it is used for more than variants."""
    text = None
    for node in ast.walk(program.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        kept = []
        for alias in node.names:
            module = alias.name if isinstance(node, ast.Import) else node.module or ""
            is_librarys = module.partition(".")[0] in LIBRARIES and not getattr(node, "level", 0)
            if module == "gi.repository" and alias.name == "GLib":
                text = program.segments.text() if text is None else text
                is_librarys = not _is_used(text, alias.asname or alias.name, node)
            if not is_librarys:
                kept.append(alias)
        if isinstance(node, ast.ImportFrom) and node.level:
            program.tell(
                node,
                Kind.LOST,
                program.segments.original(node).split("\n")[0],
                "it imports from the package that the program was in",
                "put those modules beside it",
            )
        if len(kept) == len(node.names):
            continue
        if kept:
            new = type(node)(**{**vars(node), "names": kept})
            program.segments.replace_node(node, ast.unparse(new))
            continue
        block = [b for _, b in ast.iter_fields(program.parents[node]) if isinstance(b, list) and node in b]
        if not isinstance(program.parents[node], ast.Module) and len(block[0]) == 1:
            program.segments.replace_node(node, "pass")
        else:
            program.segments.replace(*program.segments.lines_of(node), "")


def _is_used(text: str, name: str, node: ast.AST) -> bool:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return True
    return any(isinstance(inner, ast.Name) and inner.id == name for inner in ast.walk(tree))


def _check_variables(program: Program, wiring: Wiring, aids: Aids, dropped: set[ast.AST]) -> None:
    """Buses and loops that other code uses, too."""
    top = {
        target.id
        for statement in program.tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    shown = {inner for function in wiring.dropped for inner in ast.walk(function)}
    for node in ast.walk(program.tree):
        if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load) or node in dropped | shown:
            continue
        if node.id in wiring.variables & top and not program.segments.is_replaced(node):
            program.tell(
                node,
                Kind.LOST,
                node.id,
                "it is the bus, the loop or a name of the old start",
                "take what is needed of it as an argument",
            )
            program.segments.replace_node(node, aids.lost(program, node, node.id))
