"""hostile_bus: a client whose bus answers with whatever the program says.

Theory. The client is the real one without its socket: ``Client`` makes requests and reads answers, its
``Exchange`` takes bytes. Each step either makes a request, gives one up, takes an outcome, or lets the bus
say something: an answer to one of the requests with fields of the program's choice, an event, plain bytes.

A bus that lies can make a client fail, with errors of the contract; it cannot make a request end twice.

Not here: the codec alone (frames_target).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bus1 import acceleration
from bus1.client import Client, Request
from bus1.core.api import HANDLE_INVALID
from bus1.errors import Bus1Error
from bus1.exchange import RECEIVING, Answer
from bus1.frames import (
    ANSWER,
    ANSWER_PREFIX,
    EVENTS,
    MAX_FRAME,
    MAX_INLINE_PAYLOAD,
    RESULTS,
    VERSION,
    Event,
    Operation,
    answer,
    encode,
)
from bus1.received import ReceivedMessage

from .descriptors import Ledger
from .program import Program

_SIZES = (0, 1, 7, 8, 16, 100, 4096)


class HostileBus:
    """One client, and what its bus says."""

    def __init__(self, program: Program, ledger: Ledger) -> None:
        self._program = program
        self._ledger = ledger
        self._client = Client(lambda message: None)
        self._requests: dict[int, Request[Any]] = {}
        """By tag: those whose outcome has neither been taken nor given up."""
        self._tags: list[int] = []
        self._kept: list[ReceivedMessage] = []
        self._without_segment: dict[int, Answer] = {}
        """Messages whose segment has been asked for, by the tag of that request."""
        welcome = RESULTS[Operation.HELLO].pack(VERSION, 0, 0, MAX_FRAME, MAX_INLINE_PAYLOAD, 1 << 20)
        frame = answer(Operation.HELLO, self._start(self._client.hello()), welcome)
        self._client.exchange.feed(frame, [], False)
        self._client.exchange.process()
        self._take()

    def step(self) -> None:
        """One thing that the client does, or the bus says."""
        self._program.one_of(
            (self._request, self._answer, self._take, self._event, self._abandon, self._bytes, self._answer)
        )()
        self._client.exchange.process()

    def close(self) -> None:
        """The channel ends: what has no outcome yet fails now."""
        self._client.exchange.fail()
        for tag in list(self._requests):
            self._outcome(tag)
        assert not self._requests
        self._client.close()
        for message in self._kept:
            message.release()
        outcomes = [*self._without_segment.values()]
        while (stray := self._client.exchange.next_stray()) is not None:
            outcomes.append(stray)
        for outcome in outcomes:
            outcome.fds.close()
            outcome.offered.close()

    # ---- the client ------------------------------------------------------------------------------

    def _start(self, request: Request[Any]) -> int:
        tag = self._client.start(request)
        assert tag not in self._tags
        self._requests[tag] = request
        self._tags.append(tag)
        return tag

    def _request(self) -> None:
        client, number = self._client, self._program.number
        parts, fds = [bytes(self._program.byte())], list[int]()
        make: tuple[Callable[[], Request[Any]], ...] = (
            client.hello, client.open, client.disconnect, client.query, lambda: client.release(number()),
            lambda: client.transfer(number(), None), lambda: client.destroy([number(), number()]),
            lambda: client.slice_release(number()), lambda: client.recv(number(), number(), number()),
            lambda: client.send([number()], parts, [], fds, flags=0, optional=[number()]),
            lambda: client.call([number()], parts, [], fds, flags=4, options=1),
            lambda: client.reply(
                [number()], parts, [], fds, answered=None, release=HANDLE_INVALID, flags=4, options=1
            ),
        )
        chosen = self._program.one_of(make)
        with suppress(Bus1Error):
            self._start(client.arena_for(parts) or chosen())

    def _abandon(self) -> None:
        exchange = self._client.exchange
        how = self._program.one_of((exchange.abandon, exchange.cancel, exchange.recall))
        if not self._tags:
            return
        tag = self._program.one_of(self._tags[-256:])
        how(tag)
        if how != exchange.recall:
            self._requests.pop(tag, None)

    def _take(self) -> None:
        if self._requests:
            self._outcome(self._program.one_of(list(self._requests)[-256:]))

    def _outcome(self, tag: int) -> None:
        exchange = self._client.exchange
        try:
            outcome = exchange.take(tag)
        except Bus1Error as error:
            assert error is exchange.failure
            del self._requests[tag]
            return
        if outcome is None:
            assert exchange.failure is None
            return
        request = self._requests.pop(tag)
        if exchange.expects(tag):  # a message of an earlier RECV came in the place of its own
            exchange.cancel(tag)
        assert tag not in exchange.answered(), "a request had two outcomes"
        try:
            self._read(request, outcome)
            if (message := self._without_segment.pop(tag, None)) is not None:
                self._keep(message)
        except Bus1Error:
            outcome.fds.close()
            outcome.offered.close()

    def _read(self, request: Request[Any], outcome: Answer) -> None:
        result = self._client.finish(request, outcome)
        if request.operation is Operation.OPEN:
            assert isinstance(result, tuple)
            os.close(result[0])
        elif request.operation in RECEIVING:
            if (missing := self._client.missing_segment(outcome)) is None:
                self._keep(outcome)
            else:
                self._without_segment[self._start(missing)] = outcome

    def _keep(self, outcome: Answer) -> None:
        if len(self._kept) == 8:
            self._kept.pop(0).release()
        self._kept.append(self._client.message(outcome))

    # ---- the bus ---------------------------------------------------------------------------------

    def _say(self, frame: bytes, n_fds: int) -> None:
        real = self._program.byte() & 1
        fds = [self._memory() if real else self._stand_in() for _ in range(n_fds)]
        if self._client.exchange.failure is None:
            self._client.exchange.feed(frame, fds, self._program.byte() == 0xFF)
        else:  # nobody reads from the socket any more
            for fd in fds:
                os.close(fd)

    def _stand_in(self) -> int:
        # what is native closes descriptors by itself, and the target counts those that are open
        native = acceleration.native is not None
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if native else self._ledger.new()

    def _memory(self) -> int:
        fd = os.memfd_create("segment", os.MFD_CLOEXEC)
        os.ftruncate(fd, 8192)
        return fd

    def _answer(self) -> None:
        program = self._program
        tag = program.one_of(self._tags[-256:]) if self._tags else 0
        request = self._requests.get(tag)
        operation = request.operation if request else program.one_of(list(Operation))
        if program.byte() == 0xFF:
            operation = program.one_of(list(Operation))
        code = program.one_of((0, 0, 0, 11, 22, 24, 107, 131, 0, 0))
        n_fds = program.one_of((0, 0, 1, 0, 2, 1))
        body = ANSWER_PREFIX.pack(code, program.byte(), program.byte() & 1)
        if not code and operation in RESULTS:
            body += RESULTS[operation].pack(*program.fields(RESULTS[operation]))
        body += program.take(program.one_of(_SIZES))
        self._say(encode(operation | ANSWER, tag, body[: len(body) - program.byte() // 250], n_fds), n_fds)

    def _event(self) -> None:
        program = self._program
        event = program.one_of((Event.OFFER, Event.OFFER, Event.RETIRED, Event.RETIRED, Event.REFUSED))
        tag = program.one_of(self._tags[-256:]) if self._tags else 0
        n_fds = program.one_of((1, 2, 0)) if event is Event.OFFER else 0
        body = EVENTS[event].pack(*program.fields(EVENTS[event])) + program.take(program.byte() % 8)
        self._say(encode(event, tag, body, n_fds), n_fds)

    def _bytes(self) -> None:
        self._say(self._program.take(self._program.byte() % 64), self._program.byte() % 3)

