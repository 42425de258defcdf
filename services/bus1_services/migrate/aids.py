"""aids: small functions and classes that a carried module brings along.

Theory. A module that was carried over stands by itself: what it needs beside the library is written into it,
if it is used, under a name that is free there.

Not here: where they are used (``emitting``, ``translating``).
"""

from __future__ import annotations

import ast

from .borrowing import Borrowed
from .program import Program

_TEXTS = {
    "not_carried_over": '''\
def {not_carried_over}(place: str) -> {Any}:
    """What stands for something that was not carried over: NotImplementedError, with its place before."""
    raise NotImplementedError(f"not carried over: {{place}}")
''',
    "soon": '''\
_happening: set[asyncio.Task[None]] = set()


def {soon}(happening: {Coroutine}[{Any}, {Any}, None]) -> None:
    """Let something happen soon, where nothing can wait for it; in the event loop of the service."""
    task = asyncio.get_running_loop().create_task(happening)
    _happening.add(task)
    task.add_done_callback(_happening.discard)
''',
    "properties_changed": '''\
async def {properties_changed}(target: {Any}, *names: {Any}) -> None:
    """Tell which properties have changed, by their names on the bus; they are in lists, or keys of dicts."""
    changed = {{name for group in names for name in group}}
    for spec in {interfaces_of}(type(target)):
        for member in spec.members.values():
            value = getattr(target, member.attribute)
            if member.name in changed and isinstance(value, {BoundProperty}):
                await value.changed()
''',
    "InterfaceTemplate": '''\
class {InterfaceTemplate}({Interface}):
    """An interface in front of the object that implements it."""

    def __init__(self, implementation: {Any}) -> None:
        super().__init__()
        self._implementation = implementation
        self.connect_signals()

    @property
    def implementation(self) -> {Any}:
        """What implements it."""
        return self._implementation

    def connect_signals(self) -> None:
        """Connect the signals of the implementation."""
''',
    "Signal": '''\
class {Signal}:
    """Calls whatever is connected to it, within the program."""

    def __init__(self) -> None:
        self._callbacks: list[{Any}] = []

    def connect(self, callback: {Any}) -> None:
        """Call this from now on."""
        self._callbacks.append(callback)

    def disconnect(self, callback: {Any} = None) -> None:
        """Do not call this any more, or nothing."""
        self._callbacks = [other for other in self._callbacks if callback not in (None, other)]

    def emit(self, *args: {Any}, **kwargs: {Any}) -> None:
        """Call all that are connected."""
        for callback in tuple(self._callbacks):
            callback(*args, **kwargs)
''',
}


class Aids:
    """Those of one module."""

    def __init__(self, borrowed: Borrowed) -> None:
        self._borrowed = borrowed
        self._used: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """How the aid is called in the module, which will have it."""
        if name not in self._used:
            self._used[name] = self._borrowed.free(name)
        return self._used[name]

    def lost(self, program: Program, node: ast.AST, what: str) -> str:
        """An expression that raises NotImplementedError, in place of what was not carried over."""
        place = f"{program.file}:{vars(node).get('lineno', 0)}: {what}"
        return f"{self('not_carried_over')}({place!a})"

    def texts(self) -> list[str]:
        """The aids; what they borrow is borrowed then."""
        return [
            _TEXTS[name].format_map(_Local(self, self._borrowed)) for name in _TEXTS if name in self._used
        ]


class _Local(dict[str, str]):
    """Names in a text as they are in the module."""

    def __init__(self, aids: Aids, borrowed: Borrowed) -> None:
        super().__init__()
        self._aids, self._borrowed = aids, borrowed

    def __missing__(self, name: str) -> str:
        return self._aids(name) if name in _TEXTS else self._borrowed(name)
