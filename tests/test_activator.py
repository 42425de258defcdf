"""The control plane's part in activation: loaded when needed, and never silent."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from bus1_bridge.activator import Activator
from bus1_bridge.busconfig import BusConfig, ServiceDir
from bus1_bridge.options import Options
from bus1_bridge.process import Launch
from bus1_bridge.starting import Starter
from bus1_bridge.switch.api import Answer, ConfigureActivation, Punt, ServicesChanged, Signalled, StartFailed
from bus1_bridge.switch.effects import Found, Line, ListServices, LookUp, SetEnvironment, Start

from bus1.process import Printing

NAME = "com.example.A"


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def activator(tmp_path: Path, notes: list[str]) -> Activator:
    config = BusConfig()
    config.service_dirs = (ServiceDir(str(tmp_path)),)
    lines = ("[D-BUS Service]", f"Name={NAME}", "Exec=/bin/a", "SystemdService=a.service", "")
    (tmp_path / f"{NAME}.service").write_text("\n".join(lines))
    options = Options(lambda: config, Printing(), asks_systemd=True)
    return Activator(Launch(options, config, [], "guid", (1, 2), 0), notes.append)


def test_what_is_no_reason_to_load_anything_loads_nothing(
    activator: Activator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Activator, "_load", lambda self: 1 / 0)
    for punt in (Signalled(17), Line("x"), Start(NAME, 1, "who")):
        assert activator.handle(punt) == []
    assert activator.settings() == [ConfigureActivation(uses_systemd=True)]


def test_a_question_is_answered_from_the_files(activator: Activator) -> None:
    assert activator.handle(LookUp(5, NAME)) == [Answer(5, Found("/bin/a", "a.service"))]
    assert activator.handle(LookUp(5, "com.example.B")) == [Answer(5, None)]
    assert activator.handle(ListServices(6)) == [Answer(6, (NAME,))]


def test_names_that_are_new_or_gone_are_news_for_everybody(activator: Activator, tmp_path: Path) -> None:
    assert activator.handle(LookUp(5, "com.example.B")) == [Answer(5, None)]
    path = tmp_path / "com.example.B.service"
    path.write_text("[D-BUS Service]\nName=com.example.B\nExec=/bin/b\n")
    assert activator.handle(LookUp(5, "com.example.B")) == [ServicesChanged(), Answer(5, Found("/bin/b"))]
    assert activator.handle(LookUp(5, "com.example.C")) == [Answer(5, None)]
    path.unlink()
    assert activator.handle(ListServices(5)) == [ServicesChanged(), Answer(5, (NAME,))]


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_new_configuration_counts_at_once_and_is_told(
    activator: Activator, tmp_path: Path, is_loaded: bool
) -> None:
    if is_loaded:
        activator.handle(ListServices(6))
    config = BusConfig()
    config.servicehelper = "/bin/helper"
    config.service_dirs = (ServiceDir(str(tmp_path / "other")),)
    commands = activator.configure(config)
    assert commands == [ConfigureActivation(uses_systemd=True, has_helper=True), ServicesChanged()]
    assert activator.handle(ListServices(6)) == [Answer(6, ())]


FAILURES = [
    (LookUp(5, NAME), [Answer(5, None)]), (ListServices(6), [Answer(6, ())]),
    (SetEnvironment({"A": "b"}), []),
]


@pytest.mark.parametrize(("punt", "commands"), FAILURES)
def test_a_bus_that_cannot_load_what_it_takes_says_so_and_goes_on(
    activator: Activator, notes: list[str], monkeypatch: pytest.MonkeyPatch, punt: Punt,
    commands: list[Answer],
) -> None:
    def fails(self: Activator) -> Starter:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Activator, "_load", fails)
        assert activator.handle(punt) == commands
    assert ["too many open files" in note for note in notes] == [True]
    assert activator.handle(ListServices(6)) == [Answer(6, (NAME,))], "it is tried again"


@pytest.mark.parametrize(("punt", "commands"), FAILURES)
def test_a_defect_costs_what_was_asked_for(
    activator: Activator, notes: list[str], monkeypatch: pytest.MonkeyPatch, punt: Punt,
    commands: list[Answer],
) -> None:
    activator.handle(ListServices(6))
    monkeypatch.setattr(Starter, "handle", lambda self, punt: 1 / 0)
    assert activator.handle(punt) == commands
    (failed,) = activator.handle(Start(NAME, 7, "who"))
    assert isinstance(failed, StartFailed)
    assert (failed.name, failed.attempt, NAME in failed.text) == (NAME, 7, True)
    assert ["ZeroDivisionError" in note for note in notes] == [True, True]
