"""Back-pressure, row by row of docs/design.md §7: what is delivered, dropped, delayed or refused."""

from __future__ import annotations

import pytest
from bus1_bridge.switch.flow import (
    FD_WEIGHT,
    OVERHEAD,
    PAIR_MARK,
    PATIENCE,
    READER_MARK,
    Flow,
    Kind,
    Verdict,
    allocated,
    hosted_limits,
    user_limits,
)
from bus1_bridge.switch.limits import BusLimits
from core_bus import Core

from bus1.core.api import Credentials, Parcel

UID = 1000
MIB = 1 << 20
DELIVER, DROP, PAUSE, REFUSE = Verdict.DELIVER, Verdict.DROP, Verdict.PAUSE, Verdict.REFUSE


class Scene:
    """Hosted peers on Core, with messages of a given size between them."""

    def __init__(self, limits: BusLimits | None = None) -> None:
        self.limits = limits or BusLimits()
        self.core = Core()
        self.core.set_user_limits(UID, user_limits(self.limits))
        self.flow = Flow(self.core, self.limits)
        self.sender, self.other, self.reader, self.third = (self.peer() for _ in range(4))

    def peer(self) -> int:
        peer = self.core.peer_new(UID, limits=hosted_limits(self.limits), overhead=OVERHEAD)
        self.core.send(peer, (), handles=(0,), credentials=Credentials(UID, UID, 1))
        return peer

    def queue(self, sender: int, reader: int, size: int, now: float = 0.0) -> None:
        """``size`` bytes as they are charged."""
        self.flow.delivering(reader, size, now)
        parcel = Parcel((reader, 0), (bytes(size - OVERHEAD),))
        self.core.route(sender, [parcel], credentials=Credentials(UID, UID, 1))

    def read(self, reader: int, now: float) -> None:
        message = self.core.recv(reader)
        self.core.slice_release(reader, message.offset)
        self.flow.progressed(reader, now)

    def ask(self, kind: Kind, now: float, *, size: int = MIB, pausable: bool = True) -> Verdict:
        return self.flow.admits(self.sender, self.reader, size, kind, now, pausable=pausable)


@pytest.fixture
def scene() -> Scene:
    return Scene()


MOVING, STILL = 0.05, 10.0


@pytest.mark.parametrize(
    ("kind", "pausable", "moving", "still"),
    [
        (Kind.BROADCAST, True, DELIVER, DROP),
        (Kind.BROADCAST, False, DELIVER, DROP),
        (Kind.CALL, True, PAUSE, PAUSE),
        (Kind.SIGNAL, True, PAUSE, PAUSE),
        (Kind.CALL, False, DELIVER, REFUSE),
        (Kind.SIGNAL, False, DELIVER, DROP),
        (Kind.REPLY, True, DELIVER, REFUSE),
        (Kind.REPLY, False, DELIVER, REFUSE),
        (Kind.BUS, False, DELIVER, DELIVER),
    ],
)
def test_beyond_the_pair_s_mark_the_table_decides(
    scene: Scene, kind: Kind, pausable: bool, moving: Verdict, still: Verdict
) -> None:
    scene.queue(scene.sender, scene.reader, PAIR_MARK)
    assert scene.ask(kind, MOVING, pausable=pausable) is moving
    assert scene.ask(kind, STILL, pausable=pausable) is (
        # a pause that began before is over by now
        REFUSE if still is PAUSE else still
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_below_the_marks_one_who_stands_still_gets_everything(scene: Scene, kind: Kind) -> None:
    scene.queue(scene.sender, scene.reader, PAIR_MARK - MIB)
    assert scene.ask(kind, STILL, size=MIB) is DELIVER


def test_one_message_of_any_size_fits_where_nothing_waits(scene: Scene) -> None:
    assert scene.ask(Kind.CALL, STILL, size=128 * MIB) is DELIVER


def test_one_message_of_a_sender_may_be_larger_than_the_mark_while_the_reader_moves(scene: Scene) -> None:
    scene.queue(scene.other, scene.reader, MIB)
    assert scene.ask(Kind.CALL, MOVING, size=PAIR_MARK * 2) is DELIVER


def test_another_sender_has_a_mark_of_its_own_up_to_the_reader_s(scene: Scene) -> None:
    scene.queue(scene.other, scene.reader, PAIR_MARK)
    assert scene.ask(Kind.CALL, STILL, size=PAIR_MARK) is DELIVER
    scene.queue(scene.third, scene.reader, READER_MARK - PAIR_MARK)
    assert scene.ask(Kind.BROADCAST, STILL) is DROP


def test_a_reader_that_moves_takes_more_than_its_mark(scene: Scene) -> None:
    scene.queue(scene.other, scene.reader, READER_MARK)
    assert scene.ask(Kind.BROADCAST, MOVING) is DELIVER
    assert scene.ask(Kind.BROADCAST, STILL) is DROP


@pytest.mark.parametrize("kind", [Kind.BROADCAST, Kind.CALL, Kind.REPLY, Kind.SIGNAL])
def test_max_outgoing_bytes_holds_for_everybody_but_the_bus(kind: Kind) -> None:
    scene = Scene(BusLimits(max_outgoing_bytes=4 * MIB))
    scene.queue(scene.other, scene.reader, 4 * MIB)
    refused = {Kind.CALL: REFUSE, Kind.REPLY: REFUSE, Kind.BROADCAST: DROP, Kind.SIGNAL: DROP}[kind]
    assert scene.ask(kind, MOVING, pausable=False) is refused
    assert scene.ask(Kind.BUS, MOVING) is DELIVER


def test_waiting_descriptors_count_against_the_mark(scene: Scene) -> None:
    assert allocated(0, 3) - allocated(0) == 3 * FD_WEIGHT
    scene.queue(scene.sender, scene.reader, MIB)
    assert scene.ask(Kind.BROADCAST, STILL, size=allocated(8, 256)) is DROP


# ---- pauses --------------------------------------------------------------------------------------


def test_a_pause_ends_in_a_refusal_after_the_reader_stood_still_for_as_long(scene: Scene) -> None:
    scene.queue(scene.sender, scene.reader, PAIR_MARK)
    assert scene.ask(Kind.CALL, 1.0) is PAUSE
    assert scene.flow.next_deadline() == 1.0 + PATIENCE
    assert scene.flow.retries(1.0 + PATIENCE / 2) == []
    assert scene.flow.retries(1.0 + PATIENCE) == [scene.sender]
    assert scene.ask(Kind.CALL, 1.0 + PATIENCE) is REFUSE
    assert scene.flow.pauses == {}
    assert scene.flow.next_deadline() is None


def test_who_has_waited_in_vain_once_is_refused_at_once_until_the_reader_moves(scene: Scene) -> None:
    scene.queue(scene.sender, scene.reader, PAIR_MARK)
    scene.ask(Kind.CALL, 1.0)
    scene.ask(Kind.CALL, 1.0 + PATIENCE)
    assert scene.ask(Kind.CALL, 1.2) is REFUSE
    scene.flow.progressed(scene.reader, 1.3)
    assert scene.ask(Kind.CALL, 1.3) is PAUSE


def test_a_pause_lasts_while_the_reader_moves_and_ends_below_the_mark(scene: Scene) -> None:
    for _ in range(16):
        scene.queue(scene.sender, scene.reader, MIB)
    assert scene.ask(Kind.CALL, MOVING, size=2 * MIB) is PAUSE
    for i in range(1, 20):
        scene.flow.progressed(scene.reader, i * 0.09)
        assert scene.flow.retries(i * 0.09) == []
    scene.read(scene.reader, 2.0)
    assert scene.flow.retries(2.0) == [], "one message has left, there is no room for two"
    scene.read(scene.reader, 2.0)
    assert scene.flow.next_deadline() == float("-inf")
    assert scene.flow.retries(2.0) == [scene.sender]
    assert scene.ask(Kind.CALL, 2.0, size=2 * MIB) is DELIVER
    assert scene.flow.pauses == {}


def test_nobody_waits_for_one_who_waits(scene: Scene) -> None:
    scene.queue(scene.reader, scene.third, PAIR_MARK)
    scene.queue(scene.sender, scene.reader, PAIR_MARK)
    assert scene.flow.admits(scene.reader, scene.third, MIB, Kind.CALL, MOVING, pausable=True) is PAUSE
    assert scene.ask(Kind.CALL, MOVING) is DELIVER
    assert scene.ask(Kind.CALL, STILL) is REFUSE


def test_when_the_reader_goes_who_waited_is_due_at_once(scene: Scene) -> None:
    scene.queue(scene.sender, scene.reader, PAIR_MARK)
    scene.ask(Kind.CALL, MOVING)
    scene.flow.forget(scene.reader)
    assert scene.flow.next_deadline() == float("-inf")
    assert scene.flow.retries(MOVING) == [scene.sender]
    assert scene.flow.pauses == {}


def test_when_a_paused_sender_goes_nothing_of_it_is_left(scene: Scene) -> None:
    scene.queue(scene.sender, scene.reader, PAIR_MARK)
    scene.ask(Kind.CALL, MOVING)
    scene.flow.forget(scene.sender)
    assert scene.flow.pauses == {}
    assert scene.flow.next_deadline() is None


def test_a_queue_that_was_empty_is_given_time(scene: Scene) -> None:
    scene.queue(scene.sender, scene.reader, MIB, now=0.0)
    scene.read(scene.reader, 0.0)
    scene.queue(scene.sender, scene.reader, PAIR_MARK, now=50.0)
    assert scene.flow.makes_progress(scene.reader, 50.0 + PATIENCE / 2)
    assert not scene.flow.makes_progress(scene.reader, 50.0 + PATIENCE)


def test_a_native_reader_s_progress_shows_in_its_queue(scene: Scene) -> None:
    for _ in range(3):
        scene.queue(scene.sender, scene.reader, MIB, now=0.0)
    scene.flow.look_at_native(scene.reader, 5.0)
    assert not scene.flow.makes_progress(scene.reader, 5.0)
    message = scene.core.recv(scene.reader)
    scene.core.slice_release(scene.reader, message.offset)
    scene.flow.look_at_native(scene.reader, 6.0)
    assert scene.flow.makes_progress(scene.reader, 6.0)
    scene.flow.look_at_native(scene.reader, 7.0)
    assert not scene.flow.makes_progress(scene.reader, 7.0)


# ---- limits --------------------------------------------------------------------------------------


def test_the_user_s_maxima_are_at_least_four_times_the_sum_of_the_marks() -> None:
    limits = BusLimits()
    user = user_limits(limits)
    connections = limits.max_completed_connections + limits.max_incomplete_connections
    assert user.inflight_bytes >= 4 * READER_MARK * connections
    assert user.inflight_bytes >= 4 * hosted_limits(limits).inflight_bytes * connections
    assert user.slices >= 4 * limits.max_replies_per_connection
