"""authority: what a program takes from its surroundings instead of being given it.

Theory. On a bus of capabilities, a service has what it was handed. What it opens, reads, runs or connects to
by a name that everybody knows is told here with its line, so that somebody decides whether it should be
handed over instead.

Not here: what cannot be carried over (``translating``).
"""

from __future__ import annotations

import ast

from ..types import is_bus_name
from .program import Function, Program
from .report import Kind

_FILES = (
    "a file that it finds by its name",
    "take a descriptor (UnixFd), or a path that the start hands over",
)
_NETWORK = ("the network", "take a connected socket, or the capability of a service that may connect")
_RUN = ("the right to run programs as this user", "call a service that has it, with a narrower interface")
_ACCOUNT = ("who the user is", "Caller says on whose account a call comes")
_ENVIRONMENT = ("the environment", "read it once at the start, and hand the values over")
_THREADS = ("a thread of its own", "members run in the event loop; anyio.to_thread.run_sync for what blocks")
_LOOP = ("GLib's main loop, which is not run natively", "anyio tasks, or asyncio's timers, in its place")
_END = ("the right to end the process", "let main return, or cancel its scope")
_SIGNALS = ("signals of the process", "Service.run ends on SIGTERM and SIGINT already")
_CODE = ("code that is named at run time", "import what is meant, or look it up in a table")
_DATABASE = ("a file that it finds by its name", "hand over an open database at the start")
_BUS = (
    "a bus, and whoever owns a name there",
    "take a proxy of what is needed, from the caller or at the start",
)
_PRIVILEGE = ("the privileges of the process", "give this to a service manager, before the start")

_TABLE: tuple[tuple[str, tuple[str, str]], ...] = (
    ("os.environ", _ENVIRONMENT),
    ("os.getenv", _ENVIRONMENT),
    ("os.putenv", _ENVIRONMENT),
    ("sys.argv", _ENVIRONMENT),
    ("os.path.expanduser", _ACCOUNT),
    ("os.getlogin", _ACCOUNT),
    ("getpass", _ACCOUNT),
    ("pwd", _ACCOUNT),
    ("grp", _ACCOUNT),
    ("os.getuid", _ACCOUNT),
    ("os.geteuid", _ACCOUNT),
    ("pathlib.Path.home", _ACCOUNT),
    *(
        (f"os.{name}", _RUN)
        for name in (
            "system",
            "popen",
            "fork",
            "execv",
            "execve",
            "execvp",
            "spawnl",
            "spawnv",
            "posix_spawn",
        )
    ),
    *(
        (f"os.{name}", _PRIVILEGE)
        for name in ("setuid", "setgid", "setgroups", "chroot", "kill", "killpg", "nice")
    ),
    *(
        (f"os.{name}", _FILES)
        for name in (
            "open",
            "listdir",
            "scandir",
            "walk",
            "remove",
            "unlink",
            "rename",
            "replace",
            "mkdir",
            "makedirs",
            "rmdir",
            "chmod",
            "chown",
            "stat",
            "symlink",
            "link",
            "readlink",
            "chdir",
            "path.exists",
            "path.isfile",
            "path.isdir",
            "path.getsize",
            "path.getmtime",
            "mkfifo",
            "access",
            "truncate",
            "utime",
        )
    ),
    ("shutil", _FILES),
    ("tempfile", _FILES),
    ("glob", _FILES),
    ("fileinput", _FILES),
    ("pathlib.Path.cwd", _FILES),
    ("configparser.ConfigParser.read", _FILES),
    ("sqlite3", _DATABASE),
    ("dbm", _DATABASE),
    ("shelve", _DATABASE),
    ("keyring", ("the secrets of the user", "take the secret, or a capability for the one item")),
    ("subprocess", _RUN),
    ("pexpect", _RUN),
    ("multiprocessing", _RUN),
    ("pty", _RUN),
    ("asyncio.create_subprocess_exec", _RUN),
    ("asyncio.create_subprocess_shell", _RUN),
    ("socket", _NETWORK),
    ("socketserver", _NETWORK),
    ("ssl", _NETWORK),
    ("http", _NETWORK),
    ("urllib.request", _NETWORK),
    ("urllib3", _NETWORK),
    ("requests", _NETWORK),
    ("aiohttp", _NETWORK),
    ("httpx", _NETWORK),
    ("websockets", _NETWORK),
    ("smtplib", _NETWORK),
    ("ftplib", _NETWORK),
    ("paramiko", _NETWORK),
    ("paho", _NETWORK),
    ("zmq", _NETWORK),
    ("asyncio.open_connection", _NETWORK),
    ("asyncio.start_server", _NETWORK),
    ("bluetooth", _NETWORK),
    ("threading", _THREADS),
    ("concurrent.futures", _THREADS),
    ("_thread", _THREADS),
    ("time.sleep", ("all callers, who wait while it sleeps", "await anyio.sleep in an async member")),
    ("gi.repository.GLib.MainLoop", _LOOP),
    ("gi.repository.GLib.timeout_add", _LOOP),
    ("gi.repository.GLib.timeout_add_seconds", _LOOP),
    ("gi.repository.GLib.idle_add", _LOOP),
    ("gi.repository.GObject.timeout_add", _LOOP),
    ("gi.repository.GLib.io_add_watch", _LOOP),
    (
        "gi.repository.Gio",
        ("files, settings and buses of the session", "take what is needed as a capability"),
    ),
    ("sys.exit", _END),
    ("os._exit", _END),
    ("os.abort", _END),
    ("signal", _SIGNALS),
    ("importlib", _CODE),
    ("ctypes", _CODE),
    ("runpy", _CODE),
    ("dbus", _BUS),
    ("jeepney", _BUS),
)
_BUILTINS = {
    "open": _FILES,
    "exit": _END,
    "quit": _END,
    "exec": _CODE,
    "eval": _CODE,
    "__import__": _CODE,
    "input": ("the terminal", "take the answer as an argument"),
}
_METHODS = {
    "read_text": _FILES,
    "write_text": _FILES,
    "read_bytes": _FILES,
    "write_bytes": _FILES,
    "iterdir": _FILES,
    "add_signal_handler": _SIGNALS,
    "get_proxy_object": _BUS,
    "get_proxy": _BUS,
    "new_proxy": _BUS,
    "new_connect": _BUS,
}
_CONNECTIONS = {
    "MessageBus",
    "SessionMessageBus",
    "SystemMessageBus",
    "AddressedMessageBus",
    "SessionBus",
    "SystemBus",
    "sd_bus_open",
    "sd_bus_open_user",
    "sd_bus_open_system",
    "get_default_bus",
    "connect",
}
_SENDERS = (
    "sender",
    "get_current_message",
    "GetConnectionUnixUser",
    "GetConnectionUnixProcessID",
    "get_connection_unix_user",
)
_WHO = (
    "who the sender of a call is, by its name",
    "Caller says which account; better, an object for each client",
)
_POLKIT = (
    "the authority of polkit, which judges callers by their names",
    "hand a capability to those who may, or ask polkit with the Caller's process",
)
_GLOBAL = ("a variable of the module, which all objects share", "keep it in an object that is handed over")


def note_authority(program: Program) -> None:
    """Tell what the program takes from its surroundings."""
    has_pydbus = any(dotted.startswith("pydbus") for dotted in program.imports.values())
    for node in ast.walk(program.tree):
        match node:
            case ast.Name() | ast.Attribute():
                _name(program, node)
            case ast.Call(func=ast.Name(id=name)) if name in _BUILTINS and name not in program.imports:
                if not _is_defined(program, name):
                    _tell(program, node, f"{name}()", _BUILTINS[name])
            case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(text)), *_]) if (
                has_pydbus and text.count(".") > 1 and is_bus_name(text)
            ):
                _tell(program, node, f"get({text})", _BUS)
            case ast.Call(func=ast.Attribute(attr=name)) if name in _METHODS:
                _tell(program, node, f".{name}()", _METHODS[name])
            case ast.Global(names=names):
                _tell(program, node, f"global {', '.join(names)}", _GLOBAL)
            case ast.Constant(value=str(text)) if "PolicyKit1" in text and "\n" not in text:
                _tell(program, node, text, _POLKIT)
            case ast.Constant(value=str(text)) if text in _SENDERS[2:]:
                _tell(program, node, text, _WHO)


def _name(program: Program, node: ast.Name | ast.Attribute) -> None:
    if isinstance(program.parents[node], ast.Attribute) and program.dotted(program.parents[node]):
        return
    dotted = program.dotted(node)
    library, last = program.library(node)
    if library and last in _CONNECTIONS:
        is_called = isinstance(program.parents[node], ast.Call | ast.Attribute)
        if is_called and not (library == "sdbus" and last == "connect"):
            _tell(program, node, last, _BUS)
        return
    if isinstance(node, ast.Attribute) and node.attr in _SENDERS and isinstance(node.ctx, ast.Load):
        _tell(program, node, f".{node.attr}", _WHO)
    if "polkit" in dotted.lower():
        _tell(program, node, dotted, _POLKIT)
    if library and last in _SENDERS:
        _tell(program, node, last, _WHO)
    for name, reason in _TABLE:
        if (dotted == name or dotted.startswith(f"{name}.")) and not _gives_nothing(dotted):
            _tell(program, node, dotted, reason)
            return


def _gives_nothing(dotted: str) -> bool:
    """A class of errors, or a constant."""
    last = dotted.rpartition(".")[2]
    return last.isupper() or last.endswith(("Error", "Exception", "Expired")) or last in {"error", "timeout"}


def _is_defined(program: Program, name: str) -> bool:
    return any(isinstance(node, Function | ast.ClassDef) and node.name == name for node in program.tree.body)


def _tell(program: Program, node: ast.AST, what: str, reason: tuple[str, str]) -> None:
    if isinstance(program.parents.get(node), ast.Import | ast.ImportFrom):
        return
    program.tell(node, Kind.AUTHORITY, what, f"takes {reason[0]}", reason[1])
