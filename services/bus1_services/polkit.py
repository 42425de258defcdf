"""polkit: may this caller do that? asked of the system's authority, which may ask the user.

Theory. A capability says that its holder may call; polkit says whether the person at the machine may have
this done now. The subject is the process of the caller, as the kernel attested it to the bus, for callers of
either kind: number, start time and account, and a descriptor of it for a polkit that takes one, so that
another process that gets the number later is not meant. The user is asked only if the caller allows it
(ALLOW_INTERACTIVE_AUTHORIZATION), and not any more when nobody waits for the answer.

Invariants. 1. Without a clear yes the answer is no: NotAuthorized if polkit is not there, is slow, or answers
nonsense. 2. Root is always authorized, as polkit itself says, and needs no polkit for that. 3. A call that is
given up takes the question back.

Not here: which actions there are: files below /usr/share/polkit-1/actions say that.
"""

from __future__ import annotations

import inspect
import os
import select
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import wraps
from secrets import token_hex
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, cast

import anyio

from bus1.errors import Bus1Error, NotSupported

from .body import Variant
from .call import CallFlag
from .caller import NOBODY, Caller
from .connection import Connection
from .decorators import method
from .errors import AccessDenied, DBusError
from .hints import Bool, Signature, Str, UInt32, VariantDict
from .interface import Interface

NAME, PATH = "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority"
PATIENCE, INTERACTIVE_PATIENCE = 25.0, 300.0
"""Seconds for an answer: of polkit alone, and of a person."""
_START = 1.0
_ALLOW_USER_INTERACTION = 1

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")
Answer = Annotated[tuple[Bool, Bool, dict[Str, Str]], Signature("(bba{ss})")]


class NotAuthorized(AccessDenied):
    """The caller may not do this, as far as is known: AccessDenied for it."""


class InteractiveAuthorizationRequired(
    DBusError, name="org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
):
    """The user would have to be asked, and the caller did not allow that."""


class Authority(Interface, name="org.freedesktop.PolicyKit1.Authority"):
    """What is asked of polkit."""

    @method
    async def check_authorization(
        self, subject: tuple[Str, VariantDict], action_id: Str, details: dict[Str, Str], flags: UInt32,
        cancellation_id: Str,
    ) -> Answer:
        """Whether a subject is authorized, whether it could become so, and more."""
        raise NotImplementedError

    @method
    async def cancel_check_authorization(self, cancellation_id: Str) -> None:
        """Take a question back."""
        raise NotImplementedError


class Polkit:
    """polkit on the bus of a service: give it to the service as a task.

    ``polkit = Polkit(); Service(…, objects={PATH: Clock(polkit)}, tasks=[polkit])``. ``patience`` is in
    seconds, for polkit alone and for a person."""

    def __init__(
        self, *, patience: float = PATIENCE, interactive_patience: float = INTERACTIVE_PATIENCE
    ) -> None:
        self._patience, self._interactive_patience = patience, interactive_patience
        self._connection: Connection | None = None
        self._attached: anyio.Event | None = None
        """Somebody waits for a connection."""

    async def __call__(self, connection: Connection) -> None:
        """Ask over this connection, until cancelled."""
        self._connection = connection
        if self._attached is not None:
            self._attached.set()
        try:
            await anyio.sleep_forever()
        finally:
            self._connection = self._attached = None

    async def authorize(
        self, caller: Caller, action: str, details: Mapping[str, str] | None = None, *,
        interactive: bool = True,
    ) -> None:
        """Return if the caller is authorized for an action.

        The user may be asked if the caller allows it, and ``interactive`` says so, too. ``details`` are shown
        to him; polkit takes them from root and from the owner of the action alone. NotAuthorized, also if
        polkit cannot be asked; InteractiveAuthorizationRequired."""
        if caller is NOBODY or not caller.pid:
            raise NotAuthorized(f"{action}: who asks is not known to this machine")
        if caller.uid == 0:
            return
        may_ask = interactive and bool(caller.flags & CallFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
        is_authorized, is_challenge, _ = await self._ask(caller, action, details or {}, may_ask)
        if not is_authorized:
            if is_challenge and not may_ask:
                raise InteractiveAuthorizationRequired(f"{action}: interactive authentication required")
            raise NotAuthorized(f"{action}: not authorized")

    def protects(self, action: str, *details: str) -> Callable[
        [Callable[Concatenate[S, P], Awaitable[R]]], Callable[Concatenate[S, P], Awaitable[R]]
    ]:
        """Decorator, below ``@method``: the caller must be authorized for ``action`` before the method runs.

        The method has a parameter ``caller: Caller = NOBODY``; ``details`` are names of arguments that are
        shown to the user. TypeError for a method without such a parameter, or without these arguments."""

        def decorate(
            function: Callable[Concatenate[S, P], Awaitable[R]]
        ) -> Callable[Concatenate[S, P], Awaitable[R]]:
            signature = inspect.signature(function)
            callers = [name for name, each in signature.parameters.items() if each.default is NOBODY]
            if len(callers) != 1 or not set(details) <= set(signature.parameters):
                raise TypeError(f"{function.__qualname__} has no caller: Caller = NOBODY, or no {details}")

            @wraps(function)
            async def protected(self_: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
                bound = signature.bind(self_, *args, **kwargs)
                bound.apply_defaults()
                shown = {name: str(bound.arguments[name]) for name in details}
                await self.authorize(bound.arguments[callers[0]], action, shown)
                return await function(self_, *args, **kwargs)

            return cast("Callable[Concatenate[S, P], Awaitable[R]]", protected)

        return decorate

    async def _ask(
        self, caller: Caller, action: str, details: Mapping[str, str], may_ask: bool
    ) -> tuple[bool, bool, dict[str, str]]:
        connection = self._connection or await self._started()
        if connection is None:
            raise NotAuthorized(f"{action}: polkit is asked by a service that runs, with it among its tasks")
        question = token_hex(16) if may_ask else ""
        try:
            with anyio.fail_after(self._interactive_patience if may_ask else self._patience):
                authority = await connection.registry.proxy(Authority, NAME, PATH)
                try:
                    return await _answer(authority, caller, action, dict(details), question)
                except BaseException:
                    await _take_back(authority, question)
                    raise
        except TimeoutError:
            raise NotAuthorized(f"{action}: polkit does not answer") from None
        except (DBusError, Bus1Error) as error:
            if isinstance(error, NotAuthorized):
                raise
            raise NotAuthorized(f"{action}: polkit cannot be asked: {error}") from None


    async def _started(self) -> Connection | None:
        """The connection of a service that is published, and about to start its tasks."""
        self._attached = self._attached or anyio.Event()
        with anyio.move_on_after(min(self._patience, _START)):
            await self._attached.wait()
        return self._connection


async def _answer(
    authority: Authority, caller: Caller, action: str, details: dict[str, str], question: str
) -> tuple[bool, bool, dict[str, str]]:
    flags = _ALLOW_USER_INTERACTION if question else 0
    pidfd, subject = _subject(caller)
    try:
        try:
            known = {**subject, "pidfd": Variant("h", pidfd)}
            return await authority.check_authorization(
                ("unix-process", known), action, details, flags, question
            )
        except NotSupported:
            # a polkit that takes no descriptors
            return await authority.check_authorization(
                ("unix-process", subject), action, details, flags, question
            )
    finally:
        os.close(pidfd)


async def _take_back(authority: Authority, question: str) -> None:
    """Nobody waits any more: whoever is asked need not answer."""
    if question:
        with anyio.move_on_after(1, shield=True), suppress(DBusError, Bus1Error):
            await authority.cancel_check_authorization(question)


def _subject(caller: Caller) -> tuple[int, dict[str, Any]]:
    """A descriptor of the caller's process, and what polkit wants to know of it; NotAuthorized."""
    try:
        pidfd = os.pidfd_open(caller.pid)
    except OSError as error:
        raise NotAuthorized(f"process {caller.pid} is gone: {error.strerror}") from None
    try:
        start_time = _start_time(caller.pid)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        if ended.poll(0):
            raise NotAuthorized(f"process {caller.pid} is gone")
    except BaseException:
        os.close(pidfd)
        raise
    uid = Variant("i", caller.uid)
    return pidfd, {"pid": Variant("u", caller.pid), "start-time": Variant("t", start_time), "uid": uid}


def _start_time(pid: int) -> int:
    """When a process started, in ticks since boot; 0 if that is hidden: then polkit looks it up."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
