"""The house rules that a machine can count: caps, docstrings, imports, one version, README's commands.

Those of Rust are in test_house_rust.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "bus1": ROOT / "bus1",
    "bus1_services": ROOT / "services" / "bus1_services",
    "bus1_bridge": ROOT / "bridge" / "bus1_bridge",
    "benchmarks": ROOT / "benchmarks",
    "examples": ROOT / "examples",
    "fuzz": ROOT / "fuzz",
}
FILE_CAP = 450
BODY_CAP = 55

DECLARED = {
    "bus1": {"sortedcontainers"},
    "bus1_services": {"bus1"},
    "bus1_bridge": {"bus1", "bus1_services", "sortedcontainers"},
    "benchmarks": {"anyio", "bus1", "bus1_services", "bus1_bridge", "dbus_fast", "matplotlib"},
    "examples": {"anyio", "bus1", "bus1_services", "dbus_fast"},
    "fuzz": {
        "atheris", "bus1", "bus1_bridge",
        "twin_client", "twin_pair", "twin_script", "twin_scripts", "twin_stage",  # of the tests
    },
}
"""What each room may import beside the standard library and itself."""

CLIENT_FACES = {
    "bus1/aio.py": {"anyio"},
    "bus1/aiolink.py": {"anyio"},
    "bus1/attendance.py": {"anyio"},
    "bus1/loops.py": {"anyio"},
    "bus1/turns.py": {"anyio"},
    "services/bus1_services/app.py": {"anyio"},
    "services/bus1_services/body.py": {"dbus_fast"},
    "services/bus1_services/bugs.py": {"anyio"},
    "services/bus1_services/calls.py": {"anyio"},
    "services/bus1_services/caps/expiry.py": {"anyio"},
    "services/bus1_services/caps/relay.py": {"anyio"},
    "services/bus1_services/compare/party.py": {"anyio", "dbus_fast"},
    "services/bus1_services/compare/staging.py": {"anyio", "dbus_fast"},
    "services/bus1_services/compare/verb.py": {"anyio"},
    "services/bus1_services/connection.py": {"anyio"},
    "services/bus1_services/migrate/asking.py": {"anyio", "dbus_fast"},
    "services/bus1_services/migrate/verb.py": {"anyio"},
    "services/bus1_services/endpoint.py": {"anyio"},
    "services/bus1_services/idle.py": {"anyio"},
    "services/bus1_services/objectmanager.py": {"anyio"},
    "services/bus1_services/production.py": {"anyio"},
    "services/bus1_services/polkit.py": {"anyio"},
    "services/bus1_services/program.py": {"anyio"},
    "services/bus1_services/proxy.py": {"anyio"},
    "services/bus1_services/sweeper.py": {"anyio"},
    "services/bus1_services/reconnection.py": {"anyio"},
    "services/bus1_services/sandbox.py": {"anyio"},
    "services/bus1_services/stopping.py": {"anyio"},
    "services/bus1_services/stream.py": {"anyio"},
    "services/bus1_services/testing/bus.py": {"dbus_fast"},
    "services/bus1_services/testing/dbus.py": {"anyio", "dbus_fast"},
    "services/bus1_services/testing/history.py": {"anyio"},
    "services/bus1_services/testing/plugin.py": {"dbus_fast", "pytest"},
    "services/bus1_services/testing/replay.py": {"dbus_fast"},
}
"""Files that may import more: what only clients and services load (architecture §2)."""

EDGES = (
    "bridge/bus1_bridge/cli.py", "bridge/bus1_bridge/daemon.py", "bridge/bus1_bridge/listening.py",
    "bridge/bus1_bridge/process.py", "bridge/bus1_bridge/configfiles.py", "bridge/bus1_bridge/keyring.py",
    "bridge/bus1_bridge/changes.py", "bridge/bus1_bridge/identity.py",
    "bridge/bus1_bridge/pidfile.py", "bridge/bus1_bridge/tcp.py",
    "bridge/bus1_bridge/install/", "bridge/bus1_bridge/verbs/",
    "bridge/bus1_bridge/switch/loop.py", "bridge/bus1_bridge/switch/endpoint.py",
    "bridge/bus1_bridge/switch/headroom.py", "bridge/bus1_bridge/switch/doors.py",
    "bridge/bus1_bridge/switch/reception.py",
    "bridge/bus1_bridge/servicefiles.py", "bridge/bus1_bridge/spawning.py", "bridge/bus1_bridge/starting.py",
    "bridge/bus1_bridge/activator.py", "bridge/bus1_bridge/private.py",
)
"""The files, and folders, of the bridge that touch the world."""

PURE = (
    "bus1/errors.py", "bus1/core", "bus1/frames.py", "bridge/bus1_bridge",
    "services/bus1_services/call.py", "services/bus1_services/types.py", "services/bus1_services/seed.py",
)
"""What decides (architecture §3), the edges apart."""

WORLD = {
    "asyncio", "fcntl", "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "random", "secrets",
    "select", "selectors", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time", "uuid",
}
"""Standard modules that a pure file does not import."""


def sources() -> list[Path]:
    """Every Python file of the product, its examples and its benchmarks."""
    return sorted(path for folder in ROOMS.values() for path in folder.rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    return next(room for room, folder in ROOMS.items() if path.is_relative_to(folder))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported_roots(path: Path) -> set[str]:
    """Top-level names of all absolute imports, those inside functions too."""
    roots: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            roots.add(node.module.partition(".")[0])
    return roots


Function = ast.FunctionDef | ast.AsyncFunctionDef
Member = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def body_lines(function: Function) -> int:
    """Lines of the body, the docstring not counted."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def is_contract(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).partition("[")[0].endswith(("Protocol", "ABC")) for base in node.bases)


def public_members(tree: ast.Module | ast.ClassDef) -> Iterator[Member]:
    for node in tree.body:
        if isinstance(node, Member) and not node.name.startswith("_"):
            yield node


def is_variant(function: Function) -> bool:
    """An overload, or the setter of a property: documented where the thing itself is."""
    return any(ast.unparse(d).endswith((".setter", ".deleter", "overload")) for d in function.decorator_list)


def documented_contracts() -> set[str]:
    """Methods that a Protocol documents: whoever implements them need not repeat the words."""
    return {
        method.name
        for path in sources()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and is_contract(node)
        for method in public_members(node)
        if ast.get_docstring(method)
    }


def undocumented(path: Path, contracts: set[str]) -> Iterator[str]:
    tree = tree_of(path)
    if tree.body and not ast.get_docstring(tree):
        yield f"{named(path)}: module"
    for member in public_members(tree):
        if isinstance(member, Function) and is_variant(member):
            continue
        if not ast.get_docstring(member):
            yield f"{named(path)}:{member.lineno} {member.name}"
        if isinstance(member, ast.ClassDef):
            for method in public_members(member):
                if isinstance(method, ast.ClassDef) or is_variant(method) or method.name in contracts:
                    continue
                if not ast.get_docstring(method):
                    yield f"{named(path)}:{method.lineno} {member.name}.{method.name}"


def test_no_file_is_longer_than_the_cap() -> None:
    long = {named(path): n for path in sources() if (n := len(path.read_text().splitlines())) > FILE_CAP}
    assert long == {}


def test_no_function_body_is_longer_than_the_cap() -> None:
    long = {
        f"{named(path)}:{function.lineno} {function.name}": body_lines(function)
        for path in sources()
        for function in functions(tree_of(path))
        if body_lines(function) > BODY_CAP
    }
    assert long == {}


def test_every_public_name_has_a_docstring() -> None:
    contracts = documented_contracts()
    assert [name for path in sources() for name in undocumented(path, contracts)] == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = {"util", "utils", "helper", "helpers", "common", "base", "misc", "manager"}
    assert [named(path) for path in sources() if path.stem in vague] == []


def test_a_room_imports_only_what_is_declared_for_it() -> None:
    undeclared = {}
    for path in sources():
        room = room_of(path)
        siblings = {other.stem for other in path.parent.glob("*.py")} if room == "examples" else set()
        allowed = DECLARED[room] | {room} | CLIENT_FACES.get(named(path), set()) | siblings
        if rest := imported_roots(path) - allowed - sys.stdlib_module_names:
            undeclared[named(path)] = sorted(rest)
    assert undeclared == {}


def test_what_decides_imports_nothing_that_acts() -> None:
    worldly = {}
    for start in PURE:
        assert (ROOT / start).exists(), start
        for path in [ROOT / start] if start.endswith(".py") else sorted((ROOT / start).rglob("*.py")):
            if (acting := imported_roots(path) & WORLD) and not named(path).startswith(EDGES):
                worldly[named(path)] = sorted(acting)
    assert worldly == {}


def test_dependencies_of_the_distribution_are_the_three() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"dbus-fast", "anyio", "sortedcontainers"}


@pytest.mark.parametrize("module", ["bus1_bridge.daemon", "bus1_bridge.cli"])
def test_the_daemon_loads_neither_asyncio_nor_a_client_library(module: str) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout.split()
    assert module in loaded
    assert not {"asyncio", "anyio", "dbus_fast", "concurrent.futures", "ssl"} & set(loaded)


def test_every_package_of_the_tree_is_packaged_and_typed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join([room, *path.parent.relative_to(ROOMS[room]).parts])
        for room in setup["package-dir"]
        for path in ROOMS[room].rglob("__init__.py")
    }
    assert found == set(setup["packages"])
    assert all((ROOMS[room] / "py.typed").exists() for room in setup["package-dir"])


def test_the_version_is_written_in_one_place() -> None:
    version = importlib.metadata.version("bus1")
    holders = [named(path) for path in sources() if f'"{version}"' in path.read_text()]
    assert holders == ["bus1/__init__.py"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def shell_lines(text: str) -> Iterator[str]:
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
        yield from (line for line in block.splitlines() if line and not line.startswith("#"))


def test_the_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    tools = set(re.findall(r"^    ([a-z-]+):", (ROOT / ".ci" / "prepare").read_text(), re.M))
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    lines = list(shell_lines((ROOT / "README.md").read_text()))
    assert lines
    for line in lines:
        program, *arguments = line.split()
        if program == "make":
            assert arguments[0] in targets, line
        else:
            assert program in tools | set(scripts), line
        for script in re.findall(r"command -v ([\w-]+)", line):
            assert script in scripts, line
            assert os.access(Path(sys.executable).parent / script, os.X_OK), script


def test_the_files_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    files = set(re.findall(r"`((?:docs|examples|bus1|services|bridge)/[\w./]*)`", text))
    files |= set(re.findall(r"\]\(([\w./]+)\)", text))
    assert files
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []


def places_of(text: str) -> Iterator[str]:
    """What the map in docs/design.md names: files, and folders that stand for all that is in them."""
    folder = ""
    for line in re.search(r"^```\n(.*?)^```", text, re.M | re.S).group(1).splitlines():  # type: ignore[union-attr]
        if not line.startswith(" "):
            folder = line
            continue
        for place in re.split(r"\s{2,}", line.strip())[0].split(", "):
            before, brace, rest = place.partition("{")
            inside, _, after = rest.partition("}")
            for name in inside.split(",") if brace else [""]:
                yield f"{folder}{before}{name}{after}"


def test_the_map_of_the_design_notes_names_every_file_once() -> None:
    places = list(places_of((ROOT / "docs" / "design.md").read_text()))
    files = [
        named(path) for place in places
        for path in (sorted((ROOT / place).rglob("*.*")) if place.endswith("/") else [ROOT / place])
    ]
    rooms = ("bus1", "bus1_services", "bus1_bridge")
    there = {named(path) for path in sources() if room_of(path) in rooms and not path.stem.startswith("__")}
    there |= {named(path) for path in (ROOT / "rust" / "src").rglob("*.rs")}
    files = [file for file in files if file.endswith((".py", ".rs")) and "__" not in file]
    assert sorted(files) == sorted(there)
