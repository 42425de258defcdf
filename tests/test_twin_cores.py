"""The two bodies of Core are one: whatever is asked, in whatever order, they answer and become the same.

``twin_cores`` says what is asked and what is compared. What the native body must do in itself, and the
reference need not, is tested here, too: threads, memories that call back.
"""

from __future__ import annotations

import random
from collections import Counter
from threading import Thread
from typing import Any

import pytest
from core_bus import FlatMemory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus1.acceleration import native
from bus1.core.api import Credentials, Limits

if native is None:
    pytest.skip("there is no native Core", allow_module_level=True)
from twin_cores import TwinCores

WHO = Credentials(1000, 100, 42)
rows = st.lists(st.tuples(*[st.integers(0, 255)] * 6), max_size=60)


def play(script: list[tuple[int, ...]]) -> TwinCores:
    """All of it on both."""
    twins = TwinCores()
    for row in script:
        twins.step(row)
    twins.finish()
    return twins


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows)
def test_both_cores_answer_and_become_the_same(script: list[tuple[int, ...]]) -> None:
    play(script)


def test_long_stories_agree_too_and_go_everywhere() -> None:
    """Each command succeeds, and is refused as often as it can be."""
    tally: Counter[str] = Counter()
    for seed in range(12):
        chance = random.Random(seed)
        tally += play([tuple(chance.randrange(256) for _ in range(6)) for _ in range(120)]).tally
    commands = {name.partition(":")[0] for name in tally}
    assert {
        "send", "route", "recv", "rehearse", "handle_transfer", "handle_release", "node_destroy",
        "slice_release", "peer_new", "peer_reset", "peer_disconnect", "ahead", "seed_ahead",
        "set_user_limits",
    } <= commands & tally.keys()
    refusals = {name.partition(": ")[2] for name in tally}
    assert {
        "AlreadyDestroyed", "Busy", "ForeignNode", "InvalidArgument", "NoSuchHandle", "NodeDestroyed",
        "NotUnique", "OutOfRange", "PeerShutdown", "QuotaExceeded", "TooLarge", "WouldBlock",
    } <= refusals


def test_an_end_that_is_announced_before_its_node_is_known_can_be_looked_at() -> None:
    """N-4: NODE_DESTROY waits behind the message that brings the handle."""
    twins = TwinCores()
    handle = twins.run("handle_transfer", 2, 0x10, 1)
    twins.run("send", 1, [handle], (), [0x20], credentials=WHO)
    twins.run("node_destroy", 1, [0x20])
    data, end = twins.run("ahead", 2, 5)
    assert (data.n_handles, end.destination) == (1, (1 << 64) - 1)
    twins.finish()


def a_pair(limits: Limits | None = None, memory: Any = None) -> tuple[Any, int, int, int]:
    """A native Core, its two peers, and a handle of the first to the second."""
    core = native.Core(limits) if limits else native.Core()  # type: ignore[union-attr]
    sender, reader = core.peer_new(1000), core.peer_new(1000, memory)
    return core, sender, reader, core.handle_transfer(reader, 0x10, sender)


def test_threads_take_turns() -> None:
    """Nothing is lost, and nobody waits for ever."""
    core, sender, reader, handle = a_pair()

    def talk() -> None:
        for _ in range(300):
            core.send(sender, [handle], [b"x"], credentials=WHO)
            core.slice_release(reader, core.recv(reader).offset)

    threads = [Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not core.is_readable(reader)
    assert core.snapshot()["peers"][reader]["account"]["used"]["bytes"] == 0


def test_a_memory_that_calls_core_is_refused_and_the_command_undone() -> None:
    class Nosy(FlatMemory):
        def reserve(self, generation: int, offset: int, size: int) -> None:
            core.is_readable(1)

    core, sender, _, handle = a_pair(memory=Nosy())
    before = core.snapshot()
    with pytest.raises(RuntimeError, match="in the middle of a command"):
        core.send(sender, [handle], [b"x"], credentials=WHO)
    assert core.snapshot() == before


def test_what_a_memory_raises_comes_out_as_it_is() -> None:
    trouble = KeyError("something of its own")

    class Broken(FlatMemory):
        def open_segment(self, generation: int, base: int, size: int) -> None:
            raise trouble

    core, sender, _, handle = a_pair(memory=Broken())
    before = core.snapshot()
    with pytest.raises(KeyError) as raised:
        core.send(sender, [handle], [b"x"], credentials=WHO)
    assert raised.value is trouble and core.snapshot() == before


def test_a_large_view_is_not_copied_on_its_way() -> None:
    """Who sends it does not change it any more; should it all the same, the reader sees that."""
    core, sender, reader, handle = a_pair()
    data = bytearray(1 << 20)
    core.send(sender, [handle], [memoryview(data)], credentials=WHO)
    (found,) = core.ahead(reader)
    data[0] = 1
    assert found.parts[0][0] == 1
