"""The fuzzer's corpus runs through its targets, without the fuzzer: what it has found once stays found."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus1.client import Client, Request
from bus1.core.api import NO_LIMIT
from bus1.errors import RemoteProtocolError, TooManyDescriptors
from bus1.exchange import Answer
from bus1.frames import MAX_FRAME, REQUESTS, RESULTS, VERSION, Event, Operation, answer, encode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # fuzz is not installed

from fuzz import codec_target, frames_target, seeds, server_target, texts_target, twins_target  # noqa: E402
from fuzz.program import Program  # noqa: E402

TARGETS = {
    "frames": frames_target.one_input, "server": server_target.one_input, "codec": codec_target.one_input,
    "texts": texts_target.one_input, "twins": twins_target.one_input,
}
CORPUS = ROOT / "fuzz" / "corpus"
CHUNKS = 8
"""Inputs are run by the chunk: hundreds of tests would say no more."""


@pytest.fixture(scope="module", autouse=True)
def twin_buses() -> Iterator[None]:
    """Those that ``twins`` leaves running for the next input."""
    yield
    twins_target.close()


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_keeps_the_contract(target: str, chunk: int) -> None:
    """P-16: whatever clients did, they leave nothing behind when they close; bystanders are served."""
    for path in sorted((CORPUS / target).iterdir())[chunk::CHUNKS]:
        try:
            TARGETS[target](path.read_bytes())
        except BaseException as error:
            error.add_note(f"input: {path.relative_to(ROOT)}")
            raise


def test_seeds_keep_the_contract() -> None:
    for data in seeds.server_seeds():
        server_target.one_input(data)
    for data in seeds.frames_seeds():
        frames_target.one_input(data)
    for data in seeds.texts_seeds():
        texts_target.one_input(data)


def test_the_fuzzer_knows_every_request_under_a_fixed_number() -> None:
    assert set(server_target.OPERATIONS) == set(REQUESTS) and len(server_target.OPERATIONS) == 37


def test_the_corpus_stays_small() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert len(files) < 1000 and sum(path.stat().st_size for path in files) < 1 << 20


def test_a_program_that_is_over_chooses_the_first_of_everything() -> None:
    program = Program(b"\x05")
    assert program.one_of("abc") == "c"
    assert program.is_over
    assert (program.one_of("abc"), program.number(), program.take(3)) == ("a", 0, b"")


def test_without_atheris_the_command_says_what_to_install() -> None:
    blocked = (
        "import runpy, sys; sys.modules['atheris'] = None; sys.argv = ['fuzz', 'frames'];"
        "runpy.run_module('fuzz', run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 2 and "bus1[fuzz]" in run.stderr


# ---- what was found, as frames of a bus that lies ---------------------------------------------------


def client_of(operation: str) -> tuple[Client, Request[Any], int]:
    """A client with one request outstanding."""
    client = Client(lambda message: None)
    welcome = RESULTS[Operation.HELLO].pack(VERSION, 0, 0, MAX_FRAME, 10, 1 << 20)
    hello = client.hello()
    client.exchange.feed(answer(Operation.HELLO, client.start(hello), welcome), [], False)
    client.exchange.process()
    client.finish(hello, taken(client, 1))
    requests: dict[str, Callable[[], Request[Any]]] = {
        "open": client.open, "query": client.query, "recv": lambda: client.recv(4, NO_LIMIT, 0),
        "arena": lambda: client.arena_for([bytes(100)]) or client.query(),
    }
    request = requests[operation]()
    return client, request, client.start(request)


def taken(client: Client, tag: int) -> Answer:
    found = client.exchange.take(tag)
    assert found is not None
    return found


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_descriptors_of_the_frame_that_ends_a_channel_are_closed_at_once() -> None:
    client, _, tag = client_of("query")
    fd = os.open(os.devnull, os.O_RDONLY)
    client.exchange.feed(encode(Event.OFFER, tag, b"", 1), [fd], False)
    client.exchange.process()
    assert isinstance(client.exchange.failure, RemoteProtocolError) and not is_open(fd)


def test_a_failure_that_is_raised_again_and_again_does_not_grow() -> None:
    client, request, _ = client_of("query")
    client.exchange.fail(RemoteProtocolError("it lied"))
    lengths = set()
    for _ in range(3):
        with pytest.raises(RemoteProtocolError) as failure:
            client.start(request)
        lengths.add(len(failure.traceback))
    assert len(lengths) == 1


def test_the_descriptor_of_a_peer_whose_handles_are_cut_off_is_closed() -> None:
    client, request, tag = client_of("open")
    fd = os.open(os.devnull, os.O_RDONLY)
    client.exchange.feed(answer(Operation.OPEN, tag, struct.pack("<Q", 5), n_fds=1), [fd], False)
    client.exchange.process()
    outcome = taken(client, tag)
    with pytest.raises(RemoteProtocolError):
        client.finish(request, outcome)
    outcome.fds.close()
    assert not is_open(fd)


def test_an_arena_that_did_not_fit_into_the_process_is_too_many_descriptors() -> None:
    client, request, tag = client_of("arena")
    assert request.operation is Operation.ARENA
    frame = answer(Operation.ARENA, tag, struct.pack("<Q", 4096), n_fds=1)
    client.exchange.feed(frame, [], True)
    client.exchange.process()
    with pytest.raises(TooManyDescriptors):
        client.finish(request, taken(client, tag))


@pytest.mark.parametrize(
    ("kind", "offset", "n_bytes"), [(9, NO_LIMIT, 0), (1, 0, 0), (1, NO_LIMIT, NO_LIMIT), (1, NO_LIMIT, 1)]
)
def test_a_message_of_an_unknown_type_or_outside_its_slice_is_the_fault_of_the_bus(
    kind: int, offset: int, n_bytes: int
) -> None:
    client, request, tag = client_of("recv")
    fields = (kind, 0, 0x10, 0, 0, 0, 0, offset, n_bytes, 0, 0, 0, 8, 0, 0, 77, 0, 0, 1)
    client.exchange.feed(answer(Operation.RECV, tag, RESULTS[Operation.RECV].pack(*fields)), [], False)
    client.exchange.process()
    outcome = client.finish(request, taken(client, tag))
    with pytest.raises(RemoteProtocolError):
        client.message(outcome)
