"""wiring: how a program brings its objects to the bus: which names, which paths, and what else it does then.

Theory. The functions, and the end of a module, that connect, export and wait are not carried over: their
facts are. Statements between these that need no bus and do not wait are set-up, and go along.

Invariants. 1. A statement that is left out is plumbing, or is told as lost.

Not here: writing the native start (``carrying``).
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..types import is_bus_name, is_object_path
from .program import Function, Program
from .report import Kind
from .sources.dasbus import name_in

_PLUMBING = {
    "asyncio.run",
    "asyncio.get_event_loop",
    "asyncio.new_event_loop",
    "asyncio.set_event_loop",
    "asyncio.Future",
    "asyncio.get_running_loop",
    "asyncio.set_event_loop_policy",
    "gi.repository.GLib.MainLoop",
    "gi.repository.GObject.MainLoop",
    "uvloop.install",
    "anyio.run",
    "trio.run",
}
_LOOPS = {"asyncio.get_event_loop", "asyncio.new_event_loop", "asyncio.get_running_loop"}
_LIBRARYS = {
    "MessageBus",
    "SessionMessageBus",
    "SystemMessageBus",
    "AddressedMessageBus",
    "SessionBus",
    "SystemBus",
    "EventLoop",
    "ErrorMapper",
    "get_error_decorator",
    "DBusServiceIdentifier",
    "DBusObjectIdentifier",
    "DBusInterfaceIdentifier",
    "sd_bus_open",
    "sd_bus_open_user",
    "sd_bus_open_system",
    "set_default_bus",
    "request_default_bus_name",
    "request_default_bus_name_async",
    "get_default_bus",
}
_EXITS = {"exit", "quit", "sys.exit", "os._exit"}
_EXPORTS = {"export": 0, "publish_object": 0, "register_object": 0}
_NAMES = {
    "request_name",
    "register_service",
    "request_name_async",
    "request_default_bus_name_async",
    "request_default_bus_name",
}


_METHODS = {
    *_EXPORTS,
    *_NAMES,
    "connect",
    "disconnect",
    "wait_for_disconnect",
    "unexport",
    "release_name",
    "run",
    "quit",
    "run_forever",
    "run_until_complete",
    "close",
    "stop",
    "publish",
    "unpublish",
    "unpublish_object",
    "unregister_service",
    "add_signal_handler",
    "set_debug",
    "shutdown_asyncgens",
}
"""Of buses and loops, with a counterpart in the native start, or none that is needed."""


@dataclass
class Wiring:
    """What is known of the start."""

    names: list[str] = field(default_factory=list)
    objects: list[tuple[str, list[ast.expr]]] = field(default_factory=list)
    """Paths, and the expressions of what is exported there."""
    setup: list[ast.stmt] = field(default_factory=list)
    """What is done before, in the functions that are left out."""
    beside: list[ast.stmt] = field(default_factory=list)
    """What waits, or is started, beside serving."""
    started: list[ast.stmt] = field(default_factory=list)
    """What of that is not carried over."""
    dropped: list[ast.stmt] = field(default_factory=list)
    variables: set[str] = field(default_factory=set)
    """Names of buses, loops, and the like."""
    loops: set[str] = field(default_factory=set)
    """Those of asyncio's event loop."""


def find_wiring(program: Program) -> Wiring:
    """Look through the functions and the statements of the module."""
    return _Search(program).run()


class _Search:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._wiring = Wiring()
        self._functions: dict[str, Function] = {
            f.name: f for f in program.tree.body if isinstance(f, Function)
        }
        self._wired: set[str] = set()
        """Functions that connect or export, or call one that does."""
        self._answers: set[str] = set()
        """Names of what was answered to asking for a bus name."""

    def run(self) -> Wiring:
        while True:
            more = {
                name
                for name, function in self._functions.items()
                if name not in self._wired and self._is_wired(function)
            }
            if not more:
                break
            self._wired |= more
        # buses and loops are known before what is done with them is looked at
        for _ in range(2):
            for node in ast.walk(self._program.tree):
                if isinstance(node, ast.Assign) and self._program.enclosing_class(node) is None:
                    self._is_plumbing(node)
        for name in self._functions:
            if name in self._wired:
                self._wiring.dropped.append(self._functions[name])
                self._statements(self._functions[name].body, in_function=True)
        self._statements(self._program.tree.body, in_function=False)
        self._check_names()
        self._check()
        return self._wiring

    def _is_wired(self, node: ast.AST) -> bool:
        return any(isinstance(call, ast.Call) and self._is_anchor(call) for call in ast.walk(node))

    def _is_anchor(self, call: ast.Call) -> bool:
        if isinstance(call.func, ast.Name) and call.func.id in self._wired:
            return True
        library, name = self._program.library(call.func)
        if library:
            return name in _LIBRARYS
        if isinstance(call.func, ast.Attribute):
            known = _EXPORTS.keys() | _NAMES | {"export_to_dbus", "publish"}
            return call.func.attr in known and not isinstance(
                self._program.enclosing_class(call), ast.ClassDef
            )
        return False

    def _statements(self, statements: Sequence[ast.stmt], *, in_function: bool) -> None:
        for statement in statements:
            match statement:
                case (
                    ast.FunctionDef()
                    | ast.AsyncFunctionDef()
                    | ast.ClassDef()
                    | ast.Import()
                    | ast.ImportFrom()
                ):
                    if in_function and not isinstance(statement, ast.Import | ast.ImportFrom):
                        self._wiring.setup.append(statement)
                case ast.If() if self._is_main(statement):
                    self._wiring.dropped.append(statement)
                    self._statements(statement.body, in_function=True)
                case ast.If() | ast.Assert() if self._insists_on_name(statement):
                    if not in_function:
                        self._wiring.dropped.append(statement)
                case ast.Try() | ast.With() | ast.AsyncWith() | ast.If() if self._is_compound(statement):
                    if not in_function:
                        self._wiring.dropped.append(statement)
                    for item in getattr(statement, "items", []):
                        if isinstance(item.optional_vars, ast.Name):
                            self._wiring.variables.add(item.optional_vars.id)
                    self._statements(statement.body, in_function=True)
                    self._statements(getattr(statement, "orelse", []), in_function=True)
                    self._statements(getattr(statement, "finalbody", []), in_function=True)
                case _ if self._is_plumbing(statement):
                    self._facts(statement)
                    self._also_started(statement)
                    if not in_function:
                        self._wiring.dropped.append(statement)
                case _ if in_function:
                    self._other(statement)
                case _ if _names(statement, ast.Load, inside=True) & self._wiring.variables:
                    self._wiring.dropped.append(statement)
                    self._other(statement)

    @staticmethod
    def _is_main(statement: ast.If) -> bool:
        names = {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
        return names == {"__name__"}

    def _insists_on_name(self, statement: ast.If | ast.Assert) -> bool:
        """It gives up without the name that was asked for, as the native start does by itself."""
        used = [node for node in ast.walk(statement.test) if isinstance(node, ast.Name)]
        answers = [node for node in used if node.id in self._answers]
        others = [node for node in used if node not in answers and not self._program.library(node)[0]]
        if others or not answers:
            return False
        match statement:
            case ast.If(orelse=[_, *_]):
                return False
            case ast.If(body=[*_, ast.Expr(value=ast.Call(func=function))]):
                return self._program.dotted(function) in _EXITS
            case ast.If(body=[*_, last]):
                return isinstance(last, ast.Raise | ast.Return)
        return True

    def _is_compound(self, statement: ast.stmt) -> bool:
        inside = [
            node for node in ast.walk(statement) if isinstance(node, ast.stmt) and node is not statement
        ]
        return any(self._is_plumbing(node) for node in inside)

    def _is_plumbing(self, statement: ast.stmt) -> bool:
        match statement:
            case ast.Expr(value=value) | ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                pass
            case ast.Return(value=None) | ast.Pass():
                return True
            case _:
                return False
        inner = value.value if isinstance(value, ast.Await) else value
        calls = [node for node in ast.walk(inner) if isinstance(node, ast.Call)]
        is_plumbing = any(
            self._is_anchor(call) or self._program.dotted(call.func) in _PLUMBING for call in calls
        )
        is_plumbing |= self._root(inner) in self._wiring.variables and self._ends_in_plumbing(inner)
        if isinstance(value, ast.Await) and isinstance(inner, ast.Call):
            # whatever it waits for without a result: an event that ends the program
            is_plumbing |= (
                isinstance(inner.func, ast.Attribute) and inner.func.attr == "wait" and not inner.args
            )
        if is_plumbing and isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            self._wiring.variables |= names
            if any(isinstance(call.func, ast.Attribute) and call.func.attr in _NAMES for call in calls):
                self._answers |= names
            if any(self._program.dotted(call.func) in _LOOPS for call in calls):
                self._wiring.loops |= names
        return is_plumbing

    @staticmethod
    def _ends_in_plumbing(node: ast.expr) -> bool:
        """What is done with a bus or a loop is nothing but connecting, exporting, waiting."""
        return (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS
        )

    @staticmethod
    def _root(node: ast.AST) -> str:
        while isinstance(node, ast.Call | ast.Attribute | ast.Await | ast.Subscript):
            node = node.func if isinstance(node, ast.Call) else node.value
        return node.id if isinstance(node, ast.Name) else ""

    # ---- facts -----------------------------------------------------------------------------------

    def _facts(self, statement: ast.stmt) -> None:
        for call in ast.walk(statement):
            if not isinstance(call, ast.Call):
                continue
            _, name = self._program.library(call.func)
            attribute = call.func.attr if isinstance(call.func, ast.Attribute) else name
            if attribute in _NAMES and call.args:
                self._name(call, call.args[0])
            elif attribute in _EXPORTS and len(call.args) >= 2:
                self._object(call, call.args[0], call.args[1])
            elif attribute == "export_to_dbus" and call.args and isinstance(call.func, ast.Attribute):
                self._object(call, call.args[0], call.func.value)
            elif attribute == "publish" and call.args:
                self._publish(call)

    def _name(self, call: ast.Call, value: ast.expr) -> None:
        name = name_in(self._program, value)
        if name is None or not is_bus_name(name) or name.startswith(":"):
            self._program.tell(call, Kind.LOST, "a bus name", "it cannot be told from the text", "say --name")
        elif name not in self._wiring.names:
            self._wiring.names.append(name)

    def _object(self, call: ast.Call, path: ast.expr, value: ast.expr) -> None:
        text = name_in(self._program, path)
        if text is None or not is_object_path(text):
            self._program.tell(
                call,
                Kind.LOST,
                "an exported object",
                "its path cannot be told from the text" if text is None else f"{text!r} is no path",
                "put it into the objects of service()",
            )
            return
        inner = value.args[0] if isinstance(value, ast.Call) and self._is_publication(value) else value
        there = dict(self._wiring.objects)
        if text in there:
            there[text].append(inner)
        else:
            self._wiring.objects.append((text, [inner]))

    @staticmethod
    def _is_publication(call: ast.Call) -> bool:
        return isinstance(call.func, ast.Name) and call.func.id == "to_publication" and bool(call.args)

    def _publish(self, call: ast.Call) -> None:
        """pydbus: a name, then objects, each with or without a path below that of the name."""
        self._name(call, call.args[0])
        name = name_in(self._program, call.args[0])
        top = "/" + name.replace(".", "/") if name else None
        for given in call.args[1:]:
            path, value = top, given
            if isinstance(given, ast.Tuple) and len(given.elts) >= 2:
                below = self._program.text(given.elts[0])
                value = given.elts[1]
                path = None if below is None else below if below.startswith("/") else f"{top}/{below}"
            self._object(call, ast.Constant(path) if path else given, value)

    # ---- the rest --------------------------------------------------------------------------------

    def _other(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return
        names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        waits = any(
            isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith) for node in ast.walk(statement)
        )
        called = [
            self._program.dotted(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call)
        ]
        starts = bool({"asyncio.create_task", "asyncio.ensure_future"} & set(called))
        needs_bus = names & (self._wiring.variables - self._wiring.loops | self._wired)
        in_glib = any(name.startswith("gi.repository.GLib.") for name in called)
        if needs_bus or in_glib or isinstance(statement, ast.Return):
            self._wiring.started.append(statement)
        elif waits or starts or names & self._wiring.loops:
            self._wiring.beside.append(statement)
        else:
            self._wiring.setup.append(statement)

    def _also_started(self, statement: ast.stmt) -> None:
        """Functions that a statement of the start runs beside those that serve."""
        for call in ast.walk(statement):
            function = self._functions.get(self._root(call)) if isinstance(call, ast.Call) else None
            if isinstance(function, ast.AsyncFunctionDef) and function.name not in self._wired:
                self._wiring.started.append(statement)
                return

    def _check_names(self) -> None:
        """Set-up, and what is exported, may use what is there in ``service()``, and nothing else."""
        known = set(dir(builtins)) | set(self._program.imports) | {"__name__", "__file__"}
        for node in self._program.tree.body:
            if node not in self._wiring.dropped:
                known |= _names(node, ast.Store, inside=not isinstance(node, Function | ast.ClassDef))
        for statement in list(self._wiring.setup):
            own = _names(statement, ast.Store, inside=True)
            if _names(statement, ast.Load, inside=True) <= known | own:
                known |= own
            else:
                self._wiring.setup.remove(statement)
                self._wiring.started.append(statement)
        for statement in list(self._wiring.beside):
            own = _names(statement, ast.Store, inside=True)
            if not _names(statement, ast.Load, inside=True) <= known | own | self._wiring.loops:
                self._wiring.beside.remove(statement)
                self._wiring.started.append(statement)
        for path, values in list(self._wiring.objects):
            unknown = {name for value in values for name in _names(value, ast.Load, inside=True)} - known
            if unknown:
                self._wiring.objects.remove((path, values))
                self._program.tell(
                    values[0],
                    Kind.LOST,
                    f"the object at {path}",
                    f"{', '.join(sorted(unknown))} is not known at its start",
                    "put it into the objects of service()",
                )

    def _check(self) -> None:
        for statement in self._wiring.started:
            first = self._program.segments.original(statement).split("\n")[0]
            self._program.tell(
                statement,
                Kind.LOST,
                first,
                "it is done at the start, with the bus or with what is not known there",
                "do it in main(), which gets the native connection",
            )


def _names(tree: ast.AST, context: type[ast.expr_context], *, inside: bool) -> set[str]:
    """Names that are bound, or used; of a function or a class alone, its own."""
    found: set[str] = set()
    for node in ast.walk(tree) if inside else [tree]:
        match node:
            case ast.Name(id=name, ctx=given) if isinstance(given, context):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found |= {name} if context is ast.Store else set()
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)) if context is ast.Store:
                found.add(name)
    return found
