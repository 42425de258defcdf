"""scenarios: what is measured, one function each, and the figures that it yields.

Theory. A scenario gets a running bus and the amount of work, warms up, and returns one value per figure.
The start-up scenario gets a bus that isn't running. Times on the wall depend on who else uses the
machine; the CPU time of the bus process, which the kernel counts, hardly does.

Not here: rounds and medians (run.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from statistics import median
from time import perf_counter_ns as clock

from .buses import Bus, cpu_time
from .worker import Worker

WINDOW = 64
SUBSCRIBERS = 100
BURST = 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One column: a name, a unit, and which way is better."""

    name: str
    unit: str
    smaller_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row of measurements: ``measure(bus, work)`` gives one value per figure."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    work: int
    measure: Callable[[Bus, int], tuple[float, ...]]
    needs_running_bus: bool = True
    left_out: tuple[str, ...] = ()
    """Names of buses that it is nothing for."""


def round_trip(bus: Bus, work: int) -> tuple[float, ...]:
    """A call and its reply, one at a time."""
    with bus.clients.pair() as pair:
        pair.round_trips(ceil(work / 10))
        spent = bus.cpu_time()
        times = sorted(pair.round_trips(work))
        spent = bus.cpu_time() - spent
    return median(times) / 1e3, times[ceil(0.99 * len(times)) - 1] / 1e3, spent / work / 1e3


def python_call(bus: Bus, work: int) -> tuple[float, ...]:
    """A call and its reply, one at a time, between two Python programs with the library of the bus."""
    service = Worker("library", f"{bus.library}.service", bus.clients.address)
    try:
        service.line()
        client = Worker("library", f"{bus.library}.client", bus.clients.address, str(work))
        try:
            client.line()
            spent = bus.cpu_time(), cpu_time(service.process.pid)
            measured = json.loads(client.line())
            spent = bus.cpu_time() - spent[0], cpu_time(service.process.pid) - spent[1]
        finally:
            client.stop()
    finally:
        service.stop()
    times = sorted(measured["times"])
    cpu = (spent[0] / work, measured["cpu"], spent[1] / work)
    return median(times) / 1e3, times[ceil(0.99 * len(times)) - 1] / 1e3, *(each / 1e3 for each in cpu)


def pipelined(bus: Bus, work: int) -> tuple[float, ...]:
    """Calls with ``WINDOW`` outstanding."""
    with bus.clients.pair() as pair:
        pair.pipeline(ceil(work / 10), WINDOW)
        spent = bus.cpu_time()
        elapsed = pair.pipeline(work, WINDOW)
        spent = bus.cpu_time() - spent
    return work / elapsed * 1e9, spent / work / 1e3


def fan_out(bus: Bus, work: int) -> tuple[float, ...]:
    """One signal to all subscribers, then bursts of signals for the throughput."""
    subscribers = min(SUBSCRIBERS, 10 * work)
    bursts = ceil(work / BURST)
    with bus.clients.audience(subscribers, [1] * (work + 1) + [BURST] * bursts) as audience:
        audience.emit(1)
        single = [audience.emit(1) for _ in range(work)]
        spent = bus.cpu_time()
        elapsed = sum(audience.emit(BURST) for _ in range(bursts))
        spent = bus.cpu_time() - spent
    deliveries = subscribers * BURST * bursts
    return median(single) / 1e3, deliveries / elapsed * 1e9, spent / deliveries / 1e3


def connect(bus: Bus, work: int) -> tuple[float, ...]:
    """Connect, authenticate, Hello; each connection is closed before the next one."""
    bus.clients.connect()
    return (median(bus.clients.connect() for _ in range(work)) / 1e3,)


def start_up(bus: Bus, work: int) -> tuple[float, ...]:
    """From the spawn to the address."""
    times, spent = [], []
    for _ in range(work):
        start = clock()
        with bus:
            times.append(clock() - start)
            spent.append(bus.cpu_time())
    return median(times) / 1e6, median(spent) / 1e6


CALLS = Figure("throughput", "calls/s", smaller_is_better=False)
DELIVERIES = Figure("throughput", "deliveries/s", smaller_is_better=False)
CPU = Figure("CPU of the bus", "µs each")

SCENARIOS = (
    Scenario(
        "round-trip", "call and reply between two clients, one at a time",
        (Figure("p50", "µs"), Figure("p99", "µs"), CPU), 1000, round_trip,
    ),
    Scenario(
        "python-call", "the same between a service and a client in Python: dbus-fast, or bus1_services",
        (Figure("p50", "µs"), Figure("p99", "µs"), CPU, Figure("of the client", "µs each"),
         Figure("of the service", "µs each")), 1000, python_call, left_out=("floor (relay)",),
    ),
    Scenario("pipelined", f"the same with {WINDOW} calls outstanding", (CALLS, CPU), 2000, pipelined),
    Scenario(
        "fan-out", f"one signal to {SUBSCRIBERS} subscribers; bursts of {BURST} for the throughput",
        (Figure("last has it", "µs"), DELIVERIES, CPU), 10, fan_out,
    ),
    Scenario("connect", "connect, authenticate, Hello", (Figure("median", "µs"),), 50, connect),
    Scenario(
        "start-up", "spawn until the address is known",
        (Figure("median", "ms"), Figure("CPU of the bus", "ms")), 1, start_up, False,
    ),
)
