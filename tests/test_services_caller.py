"""Who calls, and by which capability: natively, through views, and from D-Bus."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest
from bus1_services import (
    NOBODY,
    Caller,
    Connection,
    Interface,
    Service,
    Str,
    connect,
    method,
)
from bus1_services.caps import Membrane, attenuate, expiring, revocable
from bus1_services.errors import NameHasNoOwner
from buses import Bus
from core_peer import ME, introduce
from dbus_client import Client
from test_services import core_peer, on_a_bus, quiet
from test_services_bus import aside, native

from bus1.context import context_of
from bus1.core.api import Credentials

NAME, PATH, VAULT = "org.example.Vault", "/org/example/Vault", "org.example.Vault1"


class Vault(Interface, name=VAULT):
    """Remembers who called."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []
        self.reader: Vault | None = None

    @method
    def open(self, caller: Caller = NOBODY) -> None:
        self.callers.append(caller)

    @method
    async def look(self, key: Str, caller: Caller = NOBODY) -> Str:
        self.callers.append(caller)
        return key

    @method
    def lend(self) -> Vault:
        self.reader = attenuate(self, Vault.look)
        return self.reader

    @method
    async def named(self, caller: Caller = NOBODY) -> Str:
        return await caller.name()

    @method(no_reply=True)
    async def named_in_vain(self, caller: Caller = NOBODY) -> None:
        with pytest.raises(NameHasNoOwner, match="nobody waits"):
            await caller.name()
        self.callers.append(caller)


async def call(vault: Vault, at: Connection, service: Connection, client: Connection) -> None:
    """Through a proxy for this object or view."""
    await client.proxy(Vault, await introduce(service, client, vault)).look("a")


@on_a_bus()
async def test_a_caller_is_known_by_the_object_that_it_called(
    service: Connection, client: Connection
) -> None:
    vault, other = Vault(), Vault()
    for target in (vault, other):
        await call(target, service, service, client)
    (caller,), (elsewhere,) = vault.callers, other.callers
    assert (caller.uid, caller.gid, caller.pid) == (os.getuid(), os.getgid(), os.getpid())
    assert caller.capability is vault and elsewhere.capability is other
    assert caller.handles == () and caller.label == caller.endpoint == ""


@on_a_bus()
async def test_of_several_views_the_caller_is_known_by_the_one_that_it_holds(
    service: Connection, client: Connection
) -> None:
    vault = Vault()
    first, second = attenuate(vault, Vault.look), attenuate(vault, Vault.look, Vault.open)
    brief, (lent, _), wrapped = expiring(second, 60.0), revocable(vault), Membrane().wrap(vault)
    views = [first, second, brief, lent, wrapped]
    for view in views:
        await call(view, service, service, client)
    assert [caller.capability for caller in vault.callers] == views


@on_a_bus(3)
async def test_a_capability_that_was_passed_on_is_the_same_for_who_has_it_now(
    service: Connection, client: Connection, third: Connection
) -> None:
    vault = Vault()
    proxy = client.proxy(Vault, await introduce(service, client, vault))
    reader = await proxy.lend()
    await third.proxy(Vault, await introduce(client, third, Holder(reader))).look("b")
    assert [caller.capability for caller in vault.callers] == [vault.reader]


class Holder(Vault):
    """Uses what it was given for others: they act by its capability, as it does."""

    def __init__(self, inner: Vault) -> None:
        super().__init__()
        self._inner = inner

    @method
    async def look(self, key: Str, caller: Caller = NOBODY) -> Str:
        return await self._inner.look(key)


@on_a_bus()
async def test_who_expects_no_answer_is_not_named(service: Connection, client: Connection) -> None:
    vault = Vault()
    await client.proxy(Vault, await introduce(service, client, vault)).named_in_vain()
    await quiet(service, client)
    assert len(vault.callers) == 1


@on_a_bus()
async def test_label_and_endpoint_are_what_the_bus_says(service: Connection, client: Connection) -> None:
    """P-52: services ask for the sender's context."""
    vault = Vault()
    peer = core_peer(client)
    senders = ((b"system_u:object_r\0", ""), (b"unconfined", "flatpak:a"), (None, "b"), (b"", ""))
    for label, endpoint in senders:
        context = label if not endpoint else context_of(label, endpoint)
        peer.credentials = Credentials(ME.uid, ME.gid, ME.pid, 0, context)
        await call(vault, service, service, client)
    peer.credentials = ME
    assert [(caller.label, caller.endpoint) for caller in vault.callers] == [
        ("system_u:object_r", ""), ("unconfined", "flatpak:a"), ("", "b"), ("", ""),
    ]


def test_a_call_that_does_not_come_over_the_bus_has_nobody_for_a_caller() -> None:
    async def main() -> None:
        vault = Vault()
        await vault.open()
        await attenuate(vault, Vault.look).look("a")
        assert vault.callers == [NOBODY, NOBODY]
        with pytest.raises(NameHasNoOwner, match="nobody waits"):
            await vault.named()
        assert NOBODY.capability is None and NOBODY.label == NOBODY.endpoint == ""

    anyio.run(main)


def test_dbus_clients_are_known_by_the_path_that_they_called(bus1_bus: Bus) -> None:
    vault = Vault()

    def legacy(client: Client) -> None:
        def look(path: Any) -> None:
            client.request(NAME, "Look", "s", "a", path=path, interface=VAULT)

        assert client.request(NAME, "Named", path=PATH, interface=VAULT).args == [client.name]
        look(PATH)
        (lent,) = client.request(NAME, "Lend", path=PATH, interface=VAULT).args
        look(lent)

    async def main() -> None:
        service = Service("A vault", NAME, objects={PATH: vault}, address=native(bus1_bus))
        async with service.running(), connect(native(bus1_bus)) as client:
            await aside(legacy, bus1_bus.connect())
            proxy = await client.registry.proxy(Vault, NAME, PATH)
            await proxy.look("b")
            with pytest.raises(NameHasNoOwner):
                await proxy.named()
            await client.registry.publish("A client", {}, {"/": Vault()})
            assert (await proxy.named()).startswith(":1.")
            published, lent, far = vault.callers
            assert published.capability is vault and far.capability is vault
            assert lent.capability is vault.reader
            assert {caller.pid for caller in vault.callers} == {os.getpid()}
            assert {caller.uid for caller in vault.callers} == {os.getuid()}

    anyio.run(main)
