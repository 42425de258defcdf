"""A bus that 64 clients torture serves two well-behaved ones, and is as before when they are gone.

The same run stands beside it on the reference daemon. The pair asks for 250 calls a second, and each must be
answered; how many there were and how long they took is printed (``pytest -s``), not judged: that is a matter
of the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torture
from buses import BRIDGE, Bus, eventually, open_fds

PROCESSES, CLIENTS = 4, 16
RATE = 250.0
GROWTH = 64 << 10
"""KiB that the bus may have grown by from one run to the next: what its allocator keeps for itself."""
HERE = Path(__file__).parent
SEED = "bus1"


def rss(pid: int) -> int:
    """Resident memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def charges(bus: Bus) -> list[tuple[int, str, int]]:
    """What Core has on its books, by user; the reference has no such books."""
    if bus.is_reference:
        return []
    command = [str(BRIDGE.parent / "bus1"), "--json=short", f"--address={bus.path}1", "quota"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    records = [json.loads(line) for line in text.splitlines()]
    return [(r["uid"], r["resource"], r["used"]) for r in records if r["peer"] is None]


def run_torture(bus: Bus, seconds: float, seed: str) -> tuple[Counter[str], dict[str, float]]:
    """What was done, and how the pair fared."""

    def start(program: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(HERE / program), bus.path, *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )

    with start("torture_pair.py", seconds, RATE) as pair:
        assert pair.stdout is not None
        assert pair.stdout.readline() == "ready\n"
        torturers = [start("torture.py", f"{seed}/{i}", seconds, CLIENTS) for i in range(PROCESSES)]
        try:
            done: Counter[str] = Counter()
            for torturer in torturers:
                out, _ = torturer.communicate(timeout=seconds + 60)
                assert torturer.returncode == 0
                done += Counter(json.loads(out))
            out, _ = pair.communicate(timeout=60)
            assert pair.returncode == 0, "a call of the well-behaved pair failed"
        finally:
            for process in (*torturers, pair):
                process.kill()
                process.wait()
    return done, json.loads(out)


def check(bus: Bus, seconds: float) -> None:
    """One run, with everything that must hold afterwards."""
    run_torture(bus, 3.0, f"{SEED}/before")
    settled(bus)
    fds, memory, books = open_fds(bus.pid), rss(bus.pid), charges(bus)
    done, pair = run_torture(bus, seconds, SEED)
    settled(bus)
    eventually(lambda: open_fds(bus.pid) <= fds, lambda: (open_fds(bus.pid), fds))
    eventually(lambda: charges(bus) == books, lambda: (charges(bus), books))
    after = rss(bus.pid)
    print(
        f"\n{bus.kind}: {sum(done.values())} deeds; pair: {pair['calls']} calls in {pair['seconds']:.1f} s, "
        f"p50 {pair['p50'] * 1e3:.2f} ms, p99 {pair['p99'] * 1e3:.2f} ms, max {pair['max'] * 1e3:.1f} ms; "
        f"memory {memory} -> {after} KiB\n{dict(done)}"
    )
    missing = {deed.__name__.strip("_") for deed in torture._DEEDS} - done.keys()
    assert not missing
    assert done["thrown_out"]
    assert after <= memory + GROWTH


def settled(bus: Bus) -> None:
    """Everybody is gone: only the asking client has a name, rules, anything.

    What they said last is still carried out, so this takes as long as the machine needs for it."""
    with bus.connect() as probe:
        pause = threading.Event()
        while probe.ask("ListNames")[0] != ["org.freedesktop.DBus", probe.name]:
            pause.wait(0.05)


@pytest.mark.timeout(400)
def test_the_well_behaved_are_served_beside_64_torturers(new_bus: Bus) -> None:
    check(new_bus, 60.0)


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_five_minutes_of_torture(new_bus: Bus) -> None:
    check(new_bus, 300.0)
