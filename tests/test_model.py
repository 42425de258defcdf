"""Core and its model agree about every command, whatever is asked, in whatever order.

The model (``model``) is bus1 written down once more, from the clauses and without any thought of speed;
``model_twins`` says what is compared, ``model_machine`` what is asked.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from model_machine import Machine

ERRORS = {
    "handle_transfer": (
        "NoSuchHandle", "QuotaExceeded maximum of the peer", "QuotaExceeded maximum of the user",
    ),
    "handle_release": ("Busy", "NoSuchHandle"),
    "node_destroy": (
        "AlreadyDestroyed", "ForeignNode", "InvalidArgument", "NoSuchHandle", "NotUnique",
        "QuotaExceeded maximum of the peer", "QuotaExceeded maximum of the user",
    ),
    "peer_reset": ("InvalidArgument",),
    "slice_release": ("NoSuchHandle",),
    "send": (
        "InvalidArgument", "NoSuchHandle", "NodeDestroyed", "NotUnique", "TooLarge",
        "QuotaExceeded maximum of the peer", "QuotaExceeded user quota", "QuotaExceeded peer quota",
    ),
    "recv": (
        "InvalidArgument", "OutOfRange", "QuotaExceeded maximum of the peer",
        "QuotaExceeded maximum of the user", "WouldBlock",
    ),
    "peer_disconnect": (),
    "peer_query": (),
}
"""What each command can be refused with, beside ``PeerShutdown``."""
RECEIVED = {
    "DATA": ("CONTINUE", "INVALID", "a handle to an own node", "fds", "handles", "secctx"),
    "NODE_DESTROY": ("CONTINUE",),
    "NODE_RELEASE": (),
    "seed": ("INVALID", "a handle to an own node", "fds", "handles", "secctx"),
}
"""What is received, and with what."""
PLACES = {
    "NODE_RELEASE withdrawn", "nodes protected by a seed", "seeds flushed", "set_user_limits",
    "send: delivered", "send: -113", "send: -122", "send: -6", "send: -76",
    *ERRORS,
    *(f"{command}: {error}" for command, errors in ERRORS.items() for error in (*errors, "PeerShutdown")),
    *(f"received {kind}" for kind in RECEIVED),
    *(f"peeked {kind}" for kind in RECEIVED),
    *(f"received {kind} with {trait}" for kind, traits in RECEIVED.items() for trait in traits),
    "peeked DATA with handles", "peeked seed with handles",
}
"""Where the machine must have been."""


def run(machine: type[Machine], max_examples: int, steps: int, *, derandomize: bool = True) -> None:
    """Examples that nobody hurries: a busy machine is no defect."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max_examples, stateful_step_count=steps, derandomize=derandomize,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.timeout(900)
def test_core_and_the_model_agree_about_everything() -> None:
    """E-3, H-31, L-4, N-10, N-11, N-12, G-9, R-21, S-12, T-50, T-51, Q-4, Q-6, Q-13, Q-16: results, errors,
    queues, counters and charges are those of the model after each of 70,000 commands of several users; the
    machine has been everywhere."""

    class Tallied(Machine):
        tally: ClassVar[Counter[str]] = Counter()

    run(Tallied, 1200, 60)
    assert sorted(place for place in PLACES if not Tallied.tally[place]) == []


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stint", range(20))
def test_core_and_the_model_agree_for_a_long_time(stint: int) -> None:
    """Other commands each time; in stints, as hypothesis remembers all examples of one."""
    run(Machine, 500, 100, derandomize=False)
