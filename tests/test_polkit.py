"""Checks with polkit: who is asked about, when a person is asked, and that no answer is a no."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from bus1_services import NOBODY, Caller, DBusError, Interface, Service, Str, UnixFd, method
from bus1_services.call import CallFlag
from bus1_services.errors import AccessDenied
from bus1_services.polkit import (
    NAME,
    PATH,
    Answer,
    Authority,
    InteractiveAuthorizationRequired,
    NotAuthorized,
    Polkit,
)
from bus1_services.testing import Fake, PrivateBus
from buses import open_fds, reap
from daemons import Daemon
from desk import until

ACTION = "org.example.clock.set-zone"
MAY_ASK = CallFlag.ALLOW_INTERACTIVE_AUTHORIZATION
YES: Any = (True, False, {})
NO: Any = (False, False, {})
CHALLENGE: Any = (False, True, {"polkit.retains": "x"})

pytestmark = pytest.mark.anyio


@pytest.fixture
def bystander() -> Any:
    """A process that somebody else could be."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def caller(process: Any, flags: int = 0) -> Caller:
    return Caller(1000, 1000, process.pid, flags)


class Clock(Interface, name="org.example.Clock1"):
    """What has to be protected."""

    polkit = Polkit()

    def __init__(self) -> None:
        self.zone = "UTC"

    @method
    @polkit.protects(ACTION, "zone")
    async def set_zone(self, zone: Str, caller: Caller = NOBODY) -> Str:
        """Set it, and give the one before."""
        before, self.zone = self.zone, zone
        return before


@asynccontextmanager
async def asking(bus: PrivateBus, polkit: Polkit, authority: Interface | None) -> AsyncIterator[Clock]:
    """A service that asks polkit, and an authority to be asked, if there is one."""
    clock = Clock()
    service = Service("a clock", objects={"/": clock}, tasks=[polkit], address=bus.native_address)
    async with anyio.create_task_group() as tasks:
        ready = anyio.Event()

        async def serve() -> None:
            assert authority is not None
            async with bus.serve(NAME, {PATH: authority}):
                ready.set()
                await anyio.sleep_forever()

        if authority is not None:
            tasks.start_soon(serve)
            await ready.wait()
        async with service.running():
            yield clock
        tasks.cancel_scope.cancel()


@pytest.fixture
def polkit() -> Polkit:
    return Polkit()


async def test_polkit_is_told_which_process_asks_for_what(
    private_bus: PrivateBus, polkit: Polkit, bystander: Any
) -> None:
    fake = Fake(Authority, check_authorization=YES)
    async with asking(private_bus, polkit, fake.object):
        await polkit.authorize(caller(bystander, MAY_ASK), ACTION, {"zone": "CET"})
        await polkit.authorize(caller(bystander), ACTION)
        await polkit.authorize(caller(bystander, MAY_ASK), ACTION, interactive=False)
    first, second, third = [call.args for call in fake.calls]
    (kind, subject), action, details, flags, question = first
    with open(f"/proc/{bystander.pid}/stat") as stat:
        started = int(stat.read().rpartition(")")[2].split()[19])
    assert (kind, action, details, flags) == ("unix-process", ACTION, {"zone": "CET"}, 1) and question
    assert {name: value.value for name, value in subject.items() if name != "pidfd"} == {
        "pid": bystander.pid, "start-time": started, "uid": 1000,
    }
    assert [value.signature for _, value in sorted(subject.items())] == ["u", "h", "t", "i"]
    assert isinstance(subject["pidfd"].value, UnixFd)
    assert second[3:] == third[3:] == (0, ""), "nobody may be asked, so there is nothing to take back"


@pytest.mark.parametrize(("answer", "flags", "error"), [
    (YES, 0, None), (YES, MAY_ASK, None),
    (NO, 0, NotAuthorized), (NO, MAY_ASK, NotAuthorized), (CHALLENGE, MAY_ASK, NotAuthorized),
    (CHALLENGE, 0, InteractiveAuthorizationRequired),
    (DBusError("no such action", name="org.freedesktop.PolicyKit1.Error.Failed"), 0, NotAuthorized),
])
async def test_only_a_clear_yes_is_a_yes(
    private_bus: PrivateBus, polkit: Polkit, bystander: Any, answer: Any, flags: int,
    error: type[DBusError] | None,
) -> None:
    async with asking(private_bus, polkit, Fake(Authority, check_authorization=answer).object):
        if error is None:
            await polkit.authorize(caller(bystander, flags), ACTION)
            return
        with pytest.raises(error, match=ACTION) as refused:
            await polkit.authorize(caller(bystander, flags), ACTION)
        assert type(refused.value) is error
    assert issubclass(NotAuthorized, AccessDenied)
    assert NotAuthorized().name == "org.freedesktop.DBus.Error.AccessDenied"


class Nonsense(Interface, name="org.freedesktop.PolicyKit1.Authority"):
    """An authority of another kind."""

    @method(name="CheckAuthorization", takes="(sa{sv})sa{ss}us", gives="b")
    def check(self, subject: Any, action: Any, details: Any, flags: Any, question: Any) -> Any:
        return True


async def test_without_polkit_or_with_one_that_makes_no_sense_the_answer_is_no(
    private_bus: PrivateBus, bystander: Any
) -> None:
    polkit, hasty = Polkit(), Polkit(patience=0.02)
    with pytest.raises(NotAuthorized, match="among its tasks"):
        await hasty.authorize(caller(bystander), ACTION)
    async with asking(private_bus, polkit, None):
        with pytest.raises(NotAuthorized, match="NameHasNoOwner"):
            await polkit.authorize(caller(bystander), ACTION)
    async with asking(private_bus, polkit, Nonsense()):
        with pytest.raises(NotAuthorized, match="cannot be asked"):
            await polkit.authorize(caller(bystander), ACTION)
    async with asking(private_bus, hasty, None):
        pass
    with pytest.raises(NotAuthorized, match="among its tasks"):
        await hasty.authorize(caller(bystander), ACTION)


class Slow(Authority):
    """Asks a person who is not there."""

    def __init__(self) -> None:
        self.asked, self.taken_back = anyio.Event(), anyio.Event()
        self.questions: list[str] = []

    @method
    async def check_authorization(
        self, subject: Any, action_id: Any, details: Any, flags: Any, cancellation_id: Any
    ) -> Answer:
        self.questions.append(cancellation_id)
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    @method
    async def cancel_check_authorization(self, cancellation_id: Str) -> None:
        self.questions.append(cancellation_id)
        self.taken_back.set()


async def test_who_waits_no_longer_takes_the_question_back(private_bus: PrivateBus, bystander: Any) -> None:
    polkit, slow = Polkit(), Slow()
    async with asking(private_bus, polkit, slow):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(polkit.authorize, caller(bystander, MAY_ASK), ACTION)
            await slow.asked.wait()
            tasks.cancel_scope.cancel()
        await slow.taken_back.wait()
    assert slow.questions[0] == slow.questions[1] != ""


@pytest.mark.parametrize("flags", [0, MAY_ASK])
async def test_patience_has_an_end(private_bus: PrivateBus, bystander: Any, flags: int) -> None:
    polkit, slow = Polkit(patience=0.02, interactive_patience=0.02), Slow()
    async with asking(private_bus, polkit, slow):
        with pytest.raises(NotAuthorized, match="does not answer"):
            await polkit.authorize(caller(bystander, flags), ACTION)


async def test_root_needs_no_polkit_and_nobody_has_none(polkit: Polkit) -> None:
    await polkit.authorize(Caller(0, 0, os.getpid()), ACTION)
    for unknown in (NOBODY, Caller(1000, 1000, 0), Caller(0, 0, 0)):
        with pytest.raises(NotAuthorized, match="not known"):
            await polkit.authorize(unknown, ACTION)


async def none_more_than(before: int) -> None:
    """Wait until this process has no more descriptors open; the bus, a thread of it, has its own."""
    await until(lambda: open_fds(os.getpid()) <= before)


async def test_a_process_that_is_gone_is_not_authorized(
    private_bus: PrivateBus, polkit: Polkit, bystander: Any
) -> None:
    fake = Fake(Authority, check_authorization=YES)
    async with asking(private_bus, polkit, fake.object):
        before = open_fds(os.getpid())
        bystander.kill()
        os.waitid(os.P_PID, bystander.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(NotAuthorized, match="is gone"):
            await polkit.authorize(caller(bystander), ACTION)
        bystander.wait()
        with pytest.raises(NotAuthorized, match="is gone"):
            await polkit.authorize(caller(bystander), ACTION)
        await none_more_than(before)
    assert fake.calls == []


class Plain(Authority):
    """Keeps nothing of what it is asked."""

    @method
    async def check_authorization(
        self, subject: Any, action_id: Any, details: Any, flags: Any, cancellation_id: Any
    ) -> Answer:
        if action_id != ACTION:
            raise DBusError("no such action")
        return YES  # type: ignore[no-any-return]


async def test_no_descriptor_is_left_of_a_question(
    private_bus: PrivateBus, polkit: Polkit, bystander: Any
) -> None:
    async with asking(private_bus, polkit, Plain()):
        await polkit.authorize(caller(bystander), ACTION)
        before = open_fds(os.getpid())
        for _ in range(3):
            await polkit.authorize(caller(bystander), ACTION)
            with pytest.raises(NotAuthorized):
                await polkit.authorize(caller(bystander), "org.example.other")
        await none_more_than(before)


async def test_a_protected_method_runs_for_whom_polkit_lets(private_bus: PrivateBus, bystander: Any) -> None:
    fake = Fake(Authority, check_authorization=iter([YES, NO]))
    async with asking(private_bus, Clock.polkit, fake.object) as clock:
        assert await clock.set_zone("CET", caller=caller(bystander)) == "UTC"
        with pytest.raises(NotAuthorized):
            await clock.set_zone("PST", replace(caller(bystander), gid=7))
        with pytest.raises(NotAuthorized, match="not known"):
            await clock.set_zone("PST")
        assert clock.zone == "CET"
    assert [call.args[2] for call in fake.calls] == [{"zone": "CET"}, {"zone": "PST"}]


async def test_a_protected_method_is_the_same_on_the_bus(private_bus: PrivateBus) -> None:
    clock = Clock()
    async with private_bus.serve("org.example.Clock", {"/": clock}), private_bus.connect() as client:
        proxy = await client.registry.proxy(Clock, "org.example.Clock", "/")
        if os.getuid() == 0:
            assert await proxy.set_zone("CET") == "UTC"
        else:
            with pytest.raises(AccessDenied, match="among its tasks"):
                await proxy.set_zone("CET")


def test_what_cannot_be_protected_is_told_at_once(polkit: Polkit) -> None:
    async def alone(self: object, zone: Str) -> None: ...

    async def other(self: object, caller: Caller = NOBODY) -> None: ...

    for function, details in ((alone, ()), (other, ("zone",))):
        with pytest.raises(TypeError, match="has no caller"):
            polkit.protects(ACTION, *details)(function)


@pytest.mark.skipif(os.geteuid() != 0, reason="a process of somebody else needs root")
async def test_the_real_polkit_knows_the_subject_and_refuses_what_it_must() -> None:
    with ExitStack() as cleanup:
        # polkitd is another user, who has to get at the socket
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        daemon = Daemon("bus1-bridge", folder, cleanup)
        daemon.serve(f"--config-file={daemon.configure()}")
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={daemon.socket}"}

        def start(*command: str, **options: Any) -> int:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, **options,
            )
            cleanup.callback(reap, process)
            return process.pid

        somebody = Caller(65534, 65534, start("sleep", "600", user=65534, group=65534, extra_groups=[]))
        polkit = Polkit()
        service = Service("x", objects={"/": Interface()}, tasks=[polkit], address=f"{daemon.socket}1")
        async with service.running() as connection:
            async with connection.registry.watch(NAME) as changes:
                start("/usr/lib/polkit-1/polkitd")
                assert (await anext(aiter(changes))).new
            exec_action = "org.freedesktop.policykit.exec"
            with pytest.raises(InteractiveAuthorizationRequired, match=exec_action):
                await polkit.authorize(somebody, exec_action)
            with pytest.raises(NotAuthorized, match="not authorized"):
                # there is no agent who could ask him
                await polkit.authorize(replace(somebody, flags=MAY_ASK), exec_action)
            with pytest.raises(NotAuthorized, match="is not registered"):
                await polkit.authorize(somebody, "org.example.unknown")
