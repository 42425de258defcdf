"""activator: the control plane's part in activation, from the first time that it is needed.

Theory. Many buses never start a service, and whoever starts a bus waits for it. So what it takes to
start services is loaded when the first is asked for. Until then the configuration is only kept.

Invariants. 1. Every question is answered, and every start that cannot be is given up, whatever fails here.

Not here: starting (starting), who waits (activation).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from bus1.defects import account

from .switch.api import Answer, Command, ConfigureActivation, Punt, ServicesChanged, StartFailed
from .switch.effects import ListServices, LookUp, SetEnvironment, Start
from .wire import ERROR_PREFIX

if TYPE_CHECKING:
    from .busconfig import BusConfig
    from .process import Launch
    from .starting import Starter


class Activator:
    """Starts services; what it takes for that is loaded when the first is asked for."""

    def __init__(self, launch: Launch, note: Callable[[str], None]) -> None:
        self._launch = launch
        self._config = launch.config
        self._note = note
        self._starter: Starter | None = None

    def settings(self) -> list[Command]:
        """What the Switch has to know from the start; the user's own directories are there then."""
        for directory in self._config.service_dirs:
            if directory.is_strict and not directory.is_watched:
                _make_private(directory.path)
        has_helper = self._config.servicehelper is not None
        return [ConfigureActivation(self._launch.options.asks_systemd, has_helper)]

    def configure(self, config: BusConfig) -> list[Command]:
        """Another configuration."""
        self._config = config
        if self._starter is None:
            return [*self.settings(), ServicesChanged()]
        return self._starter.configure(config.service_dirs, config.servicehelper)

    def handle(self, punt: Punt) -> list[Command]:
        """What is to be done about a punt. A defect, or a shortage, costs it what it asked for."""
        if self._starter is None and not isinstance(punt, LookUp | ListServices | SetEnvironment):
            return []
        try:
            if self._starter is None:
                self._starter = self._load()
            return self._starter.handle(punt)
        except Exception as error:
            complaint = f"{type(error).__name__}: {error}"
            if not isinstance(error, ImportError | OSError):
                complaint = account()
            self._note(f"the bus failed at {punt}: {complaint}")
        match punt:
            case LookUp(asker):
                return [Answer(asker, None)]
            case ListServices(asker):
                return [Answer(asker, ())]
            case Start(name, attempt):
                text = f"Cannot start {name}: the bus failed, its log says how"
                return [StartFailed(name, attempt, ERROR_PREFIX + "Failed", text)]
        return []

    def _load(self) -> Starter:
        from .starting import Starter, Surroundings

        launch, config = self._launch, self._config
        surroundings = Surroundings(
            launch.address, launch.config.type, uses_systemd=launch.options.asks_systemd,
            uses_journal=launch.uses_syslog, files=launch.nofile,
        )
        starter = Starter(surroundings, self._note)
        starter.configure(config.service_dirs, config.servicehelper)
        return starter


def _make_private(path: str) -> None:
    """Make a directory for this user alone, and the one above it, if only they are missing."""
    for directory in (os.path.dirname(path), path):
        with suppress(OSError):
            os.mkdir(directory, 0o700)
