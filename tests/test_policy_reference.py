"""The same generated policies and messages on dbus-daemon and on bus1-bridge: the same messages arrive."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bus1_bridge.policyrules import ATTRIBUTES
from buses import start_bus, stop_bus
from policy_scenes import Arrivals, Draw, Scene, count_verdicts, play

CONFIG = """<busconfig>
<type>session</type>
<listen>unix:path={path}</listen>
{policy}
</busconfig>
"""
N_STEPS = 20
CONTEXTS = {"context=default", "context=mandatory", "user", "group", "at_console"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="bus1-policy-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def arrivals_on(kind: str, scene: Scene, folder: Path) -> Arrivals:
    """What arrives of the scene on a fresh bus of this kind."""
    conf = folder / f"{kind}.conf"
    conf.write_text(CONFIG.format(path=folder / "bus", policy=scene.policy))
    with ExitStack() as cleanup:
        bus = start_bus(kind, folder, cleanup, (f"--config-file={conf}",))
        arrived = play(scene, bus.path)
        stop_bus(bus)
    return arrived


def compare(seeds: range, folder: Path) -> tuple[Counter[str], Counter[bool]]:
    """Play the scenes on both; how often each attribute occurred, and each verdict."""
    attributes: Counter[str] = Counter()
    verdicts: Counter[bool] = Counter()
    for seed in seeds:
        scene = Draw(seed).scene(N_STEPS)
        theirs = arrivals_on("dbus-daemon", scene, folder)
        ours = arrivals_on("bus1-bridge", scene, folder)
        for step, expected, got in zip(scene.steps, theirs, ours, strict=True):
            assert got == expected, (seed, step, scene.users, scene.policy)
        attributes += scene.attributes
        verdicts += count_verdicts(scene, theirs)
    return attributes, verdicts


def check_coverage(attributes: Counter[str], verdicts: Counter[bool]) -> None:
    assert attributes.keys() == ATTRIBUTES | CONTEXTS
    assert min(verdicts[True], verdicts[False]) * 5 >= verdicts.total(), verdicts


@pytest.mark.timeout(180)
def test_the_same_messages_arrive_as_on_the_reference(folder: Path) -> None:
    check_coverage(*compare(range(25), folder))


@pytest.mark.deep
def test_the_same_messages_arrive_under_very_many_policies(folder: Path) -> None:
    check_coverage(*compare(range(1000, 2000), folder))
