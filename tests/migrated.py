"""migrated: what becomes of a package that ``bus1 migrate`` has written, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

from bus1_services import Interface

ROOT = Path(__file__).parent.parent


def load(text: str) -> list[type[Interface]]:
    """The interfaces that a service module declares."""
    module = types.ModuleType("migrated_service")
    sys.modules[module.__name__] = module
    exec(compile(text, "service.py", "exec"), module.__dict__)
    return [
        value for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Interface) and value is not Interface
    ]


def check(folder: Path, *packages: str) -> None:
    """What a user's linters and tests say of packages in ``folder``: nothing."""
    path = {"MYPYPATH": os.pathsep.join([str(ROOT), str(ROOT / "services")]), "PYTHONDONTWRITEBYTECODE": "1"}
    settings = folder / "mypy.ini"
    settings.write_text("[mypy]\nstrict = true\n[mypy-sortedcontainers.*]\nignore_missing_imports = true\n")
    for arguments in (
        ["ruff", "check", "--no-cache", "--isolated"],
        ["ruff", "check", "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        ["mypy", f"--config-file={settings}", f"--cache-dir={folder / '.mypy_cache'}"],
        ["pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=."],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *arguments, *packages], cwd=folder, env=os.environ | path, text=True,
            capture_output=True,
        )
        assert done.returncode == 0, f"{arguments[0]}: {done.stdout}{done.stderr}"
