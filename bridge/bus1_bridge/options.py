"""options: what whoever starts a bus asks for.

Not here: the flags that say it (cli), the configuration files (configfiles).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bus1.process import Printing

    from .busconfig import BusConfig


class StartError(Exception):
    """The bus can't start; the text says why."""


class Options:
    """What the command line says, once flags have become meaning."""

    __slots__ = (
        "address", "asks_systemd", "forks", "load", "printing", "stderr", "syslog", "writes_pidfile",
    )

    def __init__(
        self, load: Callable[[], BusConfig], printing: Printing, *, address: str | None = None,
        forks: bool | None = None, syslog: bool | None = None, stderr: bool = True,
        writes_pidfile: bool = True, asks_systemd: bool = False,
    ) -> None:
        self.load = load
        """Reads the configuration files, as they are now; ConfigError."""
        self.printing = printing
        self.address = address
        """Listen here, whatever the configuration says."""
        self.forks = forks
        """None: as the configuration says; so for ``syslog``."""
        self.syslog = syslog
        self.stderr = stderr
        self.writes_pidfile = writes_pidfile
        self.asks_systemd = asks_systemd
        """Services with a unit are started by systemd."""
