"""order_checker: whether one total order of events explains what several processes saw (G-1 … G-9).

Theory. An event is one command of one process: it happened at one instant between its start and its end,
on a clock that all processes share. It may put copies into queues, kill nodes, take a copy out of a queue,
or find a queue empty, a node alive or dead. What was seen puts events before others:

* x completed before y started, by the clock; and each process did one thing after the other;
* a copy is taken after it was put; those of one queue are taken in the order of the events that put them;
* who finds a queue empty is before everything that is taken from it later;
* who finds a node alive is before its destruction, who finds it dead is after. A handle in a message says
  so of the event that sent the message, a slot of a SEND of that SEND.

An event is one point, so a multicast that is torn, or nodes destroyed together of which one lives on, are
points that come before themselves. One order explains everything if and only if these claims have no cycle
and every copy was taken once.

The clock would give a claim for almost every pair of events. Instead every end is a point on a line: events
lead to the point of their end, points to the next one, and the last point before a start leads to what
started. So the work is that of sorting.

Invariants. 1. Without complaints there is an order. 2. Every complaint is true whatever the order.

Not here: recording (order_parties), real processes (test_order).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

Copy = tuple[str, str]
"""Whose queue, and what lies there: no two copies are called the same."""
MAX_STARTS = 20


@dataclass(frozen=True, slots=True)
class Event:
    """One command of one process; a RECV that finds nodes alive or dead speaks of what it took."""

    process: str
    start: int
    end: int
    what: str
    puts: tuple[Copy, ...] = ()
    takes: Copy | None = None
    finds_empty: str | None = None
    kills: tuple[str, ...] = ()
    alive: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.process} [{self.start} … {self.end}] {self.what}"


@dataclass(slots=True)
class Claims:
    """Which points come before which others, and why; the first ``n_events`` points are events."""

    n_events: int
    after: list[list[int]]
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)

    def add(self, first: int, then: int, reason: str) -> None:
        """``first`` was before ``then``."""
        if self.reasons.setdefault((first, then), reason) is reason:
            self.after[first].append(then)


def complaints(events: Sequence[Event], unread: Collection[str] = ()) -> list[str]:
    """What no order explains, in words; empty if one does.

    The events of a process are in the order in which it did them; ``unread`` may have left copies."""
    origin = {copy: number for number, event in enumerate(events) for copy in event.puts}
    killers = {node: number for number, event in enumerate(events) for node in event.kills}
    queues = _queues(events)
    found = [*_twice(events), *_unexplained(events, origin, killers), *_lost(events, origin, unread)]
    for queue, recvs in queues.items():
        if len(readers := {events[recv].process for recv in recvs}) > 1:
            found.append(f"several processes read the queue of {queue}, in no known order: {sorted(readers)}")
    return found + _cycle(events, _claims(events, queues, origin, killers, unread))


# ---- what can be said without an order -------------------------------------------------------------


def _queues(events: Sequence[Event]) -> dict[str, list[int]]:
    """The RECVs at each queue, in order."""
    queues: dict[str, list[int]] = {queue: [] for event in events for queue, _ in event.puts}
    for number, event in enumerate(events):
        queue = event.takes[0] if event.takes is not None else event.finds_empty
        if queue is not None:
            queues.setdefault(queue, []).append(number)
    return queues


def _twice(events: Iterable[Event]) -> Iterator[str]:
    done: dict[tuple[str, Copy | str], Event] = {}
    for event in events:
        takes = [] if event.takes is None else [event.takes]
        for verb, things in (("put", event.puts), ("took", takes), ("destroyed", event.kills)):
            for thing in things:
                if (verb, thing) in done:
                    yield f"somebody {verb} {thing} twice: {done[verb, thing]}; {event}"
                done[verb, thing] = event


def _unexplained(
    events: Iterable[Event], origin: dict[Copy, int], killers: dict[str, int]
) -> Iterator[str]:
    for event in events:
        if event.takes is not None and event.takes not in origin:
            yield f"nobody sent what was taken: {event}"
        for node in event.dead:
            if node not in killers:
                yield f"nobody destroyed {node}: {event}"


def _lost(events: Sequence[Event], origin: dict[Copy, int], unread: Collection[str]) -> Iterator[str]:
    taken = {event.takes for event in events}
    for copy, number in origin.items():
        if copy not in taken and copy[0] not in unread:
            yield f"{copy[0]} has lost {copy[1]!r}: {events[number]}"


# ---- claims ----------------------------------------------------------------------------------------


def _claims(
    events: Sequence[Event], queues: dict[str, list[int]], origin: dict[Copy, int], killers: dict[str, int],
    unread: Collection[str],
) -> Claims:
    claims = _time(events)
    latest: dict[str, int] = {}
    left: dict[str, dict[Copy, int]] = {queue: {} for queue in queues}
    for number, event in enumerate(events):
        if event.process in latest:
            claims.add(latest[event.process], number, "and then, in the same process,")
        latest[event.process] = number
        subject = number if event.takes is None else origin.get(event.takes)
        _lives(claims, subject, event, killers)
    for copy, number in origin.items():
        left[copy[0]][copy] = number
    for queue, recvs in queues.items():
        if len({events[recv].process for recv in recvs}) < 2:
            _queue_order(claims, events, queue, recvs, left[queue], queue in unread)
    return claims


def _time(events: Sequence[Event]) -> Claims:
    n = len(events)
    ends = sorted({event.end for event in events})
    claims = Claims(n, [[] for _ in range(n + len(ends))])
    for point in range(n, n + len(ends) - 1):
        claims.after[point].append(point + 1)
    points = {end: n + number for number, end in enumerate(ends)}
    for number, event in enumerate(events):
        claims.after[number].append(points[event.end])
        if before := bisect_left(ends, event.start):
            claims.after[n + before - 1].append(number)
    return claims


def _lives(claims: Claims, subject: int | None, event: Event, killers: dict[str, int]) -> None:
    if subject is None:
        return
    for node in event.alive:
        if node in killers:
            claims.add(subject, killers[node], f"before ({node} was found alive)")
    for node in event.dead:
        if node in killers:
            claims.add(killers[node], subject, f"before ({node} was found dead)")


def _queue_order(
    claims: Claims, events: Sequence[Event], queue: str, recvs: list[int], left: dict[Copy, int],
    is_unread: bool,
) -> None:
    behind: int | None = None
    empty: int | None = None
    for recv in recvs:
        taken = events[recv].takes
        if taken is None:
            empty = recv
        elif (source := left.pop(taken, None)) is not None:
            claims.add(source, recv, "which put what was taken by")
            _follows(claims, queue, behind, empty, source, taken[1])
            behind, empty = source, None
    for (_, name), source in left.items():
        if is_unread:
            _follows(claims, queue, behind, empty, source, name)


def _follows(
    claims: Claims, queue: str, behind: int | None, empty: int | None, source: int, name: str
) -> None:
    if behind is not None and behind != source:
        claims.add(behind, source, f"before (in the queue of {queue}, {name!r} came behind it)")
    if empty is not None:
        claims.add(empty, source, f"before (the queue of {queue} was empty, {name!r} came later)")


# ---- cycles ----------------------------------------------------------------------------------------


def _cycle(events: Sequence[Event], claims: Claims) -> list[str]:
    within = _within_cycles(claims)
    if not within:
        return []
    rings = [_ring(claims, within, start) for start in _on_a_cycle(claims, within)[:MAX_STARTS]]
    return [_in_words(events, claims, min(rings, key=len))]


def _within_cycles(claims: Claims) -> set[int]:
    """The points that are left when those without a predecessor are taken away, again and again."""
    n_before = [0] * len(claims.after)
    for then in claims.after:
        for point in then:
            n_before[point] += 1
    free = [point for point, n in enumerate(n_before) if not n]
    for first in free:
        for point in claims.after[first]:
            n_before[point] -= 1
            if not n_before[point]:
                free.append(point)
    return set(range(len(claims.after))) - set(free)


def _on_a_cycle(claims: Claims, within: set[int]) -> list[int]:
    """Events of one cycle: whoever goes backwards long enough comes round."""
    before = {point: first for first in within for point in claims.after[first] if point in within}
    point = next(iter(within))
    path: dict[int, int] = {}
    while point not in path:
        path[point] = len(path)
        point = before[point]
    return [other for other in list(path)[path[point]:] if other < claims.n_events]


def _ring(claims: Claims, within: set[int], start: int) -> list[int]:
    """The events of a short cycle through ``start``; points of time cost nothing."""
    came: dict[int, int] = {}
    line = deque([start])
    while start not in came:
        first = line.popleft()
        for point in claims.after[first]:
            if point in within and point not in came:
                came[point] = first
                if point < claims.n_events:
                    line.append(point)
                else:
                    line.appendleft(point)
    ring = [came[start]]
    while ring[-1] != start:
        ring.append(came[ring[-1]])
    return [point for point in reversed(ring) if point < claims.n_events]


def _in_words(events: Sequence[Event], claims: Claims, ring: list[int]) -> str:
    lines = ["no order of these events explains what was seen:"]
    for first, then in zip(ring, ring[1:] + ring[:1], strict=True):
        reason = claims.reasons.get((first, then), "which was over when this started:")
        lines += [f"  {events[first]}", f"    {reason}"]
    return "\n".join([*lines, f"  {events[ring[0]]}"])
