"""examples/secret_store.py, used by secret-tool, by a native client, by those who should not get anywhere."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import anyio
import pytest
from bus1_services import Connection, DBusError, Interface, ObjectPath, Variant, method
from bus1_services.errors import InvalidArgs, LimitsExceeded, from_name
from bus1_services.testing import PrivateBus, signals_of
from bus1_services.testing.dbus import adopted, released
from dbus_client import PATIENCE
from dbus_fast import Message
from dbus_fast.aio import MessageBus
from example import Programs, load

store_module: Any = load("secret_store")
items_module: Any = load("secret_items")
NAME, PATH = store_module.NAME, store_module.PATH
LOGIN = f"{PATH}/collection/login"
SERVICE, COLLECTION, ITEM = (f"org.freedesktop.Secret.{kind}" for kind in ("Service", "Collection", "Item"))


def started(bus: PrivateBus, cleanup: ExitStack) -> Programs:
    """The store as a program."""
    return Programs(bus, cleanup, "secret_store.py", "org.freedesktop.secrets is served")


def test_secret_tool_stores_finds_and_forgets(private_bus: PrivateBus) -> None:
    with ExitStack() as cleanup:
        programs = started(private_bus, cleanup)
        tool = partial(programs.run, "secret-tool")
        tool("store", "--label=Mail", "user", "me", "server", "example.org", stdin="hush")
        tool("store", "--label=Other", "user", "you", stdin="psst")
        assert tool("lookup", "user", "me") == "hush"
        assert tool("lookup", "user", "you") == "psst"
        assert tool("lookup", "user", "nobody", status=1) == ""
        found = tool("search", "--all", "server", "example.org")
        assert "label = Mail" in found and "secret = hush" in found and "attribute.user = me" in found
        tool("store", "--label=Mail", "user", "me", "server", "example.org", stdin="changed")
        assert tool("lookup", "user", "me") == "changed"
        assert tool("search", "--all", "user", "me").count("label = ") == 1
        tool("clear", "user", "me")
        assert tool("lookup", "user", "me", status=1) == ""
        assert tool("lookup", "user", "you") == "psst"
        assert private_bus.log == []


def test_secret_tool_locks_and_unlocks(private_bus: PrivateBus) -> None:
    with ExitStack() as cleanup:
        programs = started(private_bus, cleanup)
        tool = partial(programs.run, "secret-tool")
        tool("store", "--label=Mail", "user", "me", stdin="hush")
        lock(programs, "--collection=login")
        assert programs.run(*programs.example, "lookup", "user", "me") == "no such secret, or it is locked"
        assert "secret = hush" not in tool("search", "--all", "user", "me")
        assert "secret = hush" in tool("search", "--all", "--unlock", "user", "me")
        lock(programs)
        assert tool("lookup", "user", "me") == "hush"


def lock(programs: Programs, *arguments: str) -> None:
    """Debian 12's ``secret-tool lock`` crashes when it has locked; with gnome-keyring, too."""
    programs.run("secret-tool", "lock", *arguments, status=(0, -signal.SIGSEGV, -signal.SIGABRT))


def test_a_native_client_uses_the_classes_that_serve(private_bus: PrivateBus) -> None:
    with ExitStack() as cleanup:
        programs = started(private_bus, cleanup)
        programs.run("secret-tool", "store", "--label=Mail", "user", "me", stdin="hush")
        assert programs.run(*programs.example, "lookup", "user", "me") == "hush"
        programs.run(*programs.example, "nonsense", status=1)
    assert programs.run(*programs.example, "lookup", "user", "me", status=1).startswith("secret_store.py: ")


# ---- in this process -------------------------------------------------------------------------------


class Client:
    """A native client with a session."""

    def __init__(self, connection: Connection, service: Any, login: Any, session: Any) -> None:
        self.connection, self.service, self.login, self.session = connection, service, login, session

    def secret(self, value: bytes) -> Any:
        return items_module.Secret(self.session, b"", value, "text/plain")

    async def create(self, label: str, value: bytes, **attributes: str) -> Any:
        properties = {
            "org.freedesktop.Secret.Item.Label": Variant("s", label),
            "org.freedesktop.Secret.Item.Attributes": Variant("a{ss}", attributes),
        }
        item, prompt = await self.login.create_item(properties, self.secret(value), False)
        assert prompt == "/"
        return item


def stored(test: Callable[[PrivateBus, Any, Client], Awaitable[None]]) -> None:
    """Run a test with a served store and a native client."""

    async def main() -> None:
        store = store_module.SecretService()
        async with PrivateBus() as bus, bus.serve(NAME, store.objects()) as serving, bus.connect() as client:
            store.connection = serving
            service = await client.registry.proxy(store_module.SecretService, NAME, PATH)
            login = await client.registry.proxy(items_module.Collection, NAME, LOGIN)
            _, session = await service.open_session("plain", Variant("s", ""))
            await test(bus, store, Client(client, service, login, session))

    anyio.run(main)


async def call(bus: MessageBus, path: str, interface: str, member: str, signature: str, *body: Any) -> Any:
    """What a D-Bus client is answered; DBusError."""
    answer = await bus.call(Message(
        destination=NAME, path=path, interface=interface, member=member, signature=signature,
        body=list(map(released, body)),
    ))
    assert answer is not None
    if answer.error_name:
        raise from_name(answer.error_name, str(answer.body[0]))
    return [_tuples(adopted(value)) for value in answer.body]


def _tuples(value: Any) -> Any:
    """Structs, of which dbus-fast makes lists, as tuples: those of a secret."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) and len(value) == 4 else value


async def until(client: Client, claim: Callable[[], bool]) -> None:
    """Let the bus and the service go on until something holds."""
    with anyio.fail_after(PATIENCE):
        while not claim():
            await client.service.read_alias("")


def test_a_session_dies_with_its_client() -> None:
    async def test(bus: PrivateBus, store: Any, client: Client) -> None:
        async with bus.dbus() as legacy, bus.connect() as native:
            service = await native.registry.proxy(store_module.SecretService, NAME, PATH)
            held = await service.open_session("plain", Variant("s", ""))
            await call(legacy, PATH, SERVICE, "OpenSession", "sv", "plain", Variant("s", ""))
            assert len(store._sessions) == 3 and held
        await until(client, lambda: len(store._sessions) == 1)
        await client.session.close()
        assert store._sessions == set()
        with pytest.raises(items_module.NoSession):
            await client.create("x", b"")

    stored(test)


def test_an_item_is_out_of_reach_of_those_who_were_not_given_it() -> None:
    async def test(bus: PrivateBus, store: Any, client: Client) -> None:
        async with bus.dbus() as one, bus.dbus() as other:
            await client.create("Mail", b"hush", user="me")
            (_, session) = await call(one, PATH, SERVICE, "OpenSession", "sv", "plain", Variant("s", ""))
            ((path,), _) = await call(one, PATH, SERVICE, "SearchItems", "a{ss}", {"user": "me"})
            (secret,) = await call(one, path, ITEM, "GetSecret", "o", session)
            assert secret == (session, b"", b"hush", "text/plain")
            (secrets,) = await call(one, PATH, SERVICE, "GetSecrets", "aoo", [path], session)
            assert secrets == {path: secret}
            with pytest.raises(DBusError, match="UnknownObject"):
                await call(other, path, ITEM, "GetSecret", "o", session)
            with pytest.raises(InvalidArgs):
                await call(other, PATH, SERVICE, "GetSecrets", "aoo", [path], session)
            (_, own) = await call(other, PATH, SERVICE, "OpenSession", "sv", "plain", Variant("s", ""))
            with pytest.raises(InvalidArgs):
                await call(other, PATH, SERVICE, "GetSecrets", "aoo", [path], own)
            with pytest.raises(items_module.NoSuchObject):
                await call(other, PATH, SERVICE, "Lock", "ao", [path])

    stored(test)


def test_what_a_client_holds_from_elsewhere_is_no_session_and_no_item() -> None:
    class Lure(Interface, name="org.freedesktop.Secret.Lure"):
        @method
        def nothing(self) -> None: ...

    async def test(bus: PrivateBus, store: Any, client: Client) -> None:
        item = await client.create("Mail", b"hush")
        lure: Any = Lure()
        with pytest.raises(items_module.NoSession):
            await item.get_secret(lure)
        with pytest.raises(items_module.NoSession):
            await item.set_secret(items_module.Secret(lure, b"", b"x", ""))
        assert await client.service.get_secrets([lure], client.session) == {}
        with pytest.raises(items_module.NoSuchObject):
            await client.service.lock([lure])
        # an object of the store that is not of the kind that is meant
        with pytest.raises(items_module.NoSession):
            await item.get_secret(item)
        assert await item.get_secret(client.session)

    stored(test)


def test_what_is_locked_is_neither_read_nor_changed_until_a_prompt_is_granted() -> None:
    async def test(bus: PrivateBus, store: Any, client: Client) -> None:
        item = await client.create("Mail", b"hush", user="me")
        async with signals_of(client.login) as signals:
            await client.service.lock([item])
            assert [heard.member for heard in await signals.all()] == ["PropertiesChanged"]
        assert await client.login.locked and await item.locked
        unlocked, locked = await client.service.search_items({})
        assert unlocked == [] and [await found.label for found in locked] == ["Mail"]
        assert await client.service.get_secrets([item], client.session) == {}
        for attempt in (
            item.get_secret(client.session), item.set_secret(client.secret(b"")), item.delete(),
            item.label.set("x"), item.attributes.set({}), client.login.delete(), client.login.label.set("x"),
            client.create("y", b""),
        ):
            with pytest.raises(items_module.IsLocked):
                await attempt
        unlocked, path = await client.service.unlock([item, ObjectPath(LOGIN)])
        assert unlocked == [] and path.startswith(f"{PATH}/prompt/")
        prompt = await client.connection.registry.proxy(store_module.Prompt, NAME, path)
        async with signals_of(prompt) as signals:
            await prompt.prompt("")
            (completed,) = await signals.wait_for(1)
        dismissed, result = completed.args
        assert (dismissed, result.signature, result.value[1]) == (False, "ao", LOGIN)
        assert (await item.get_secret(client.session)).value == b"hush"
        assert await client.service.unlock([item]) == ([item_path(result)], "/")
        assert not any("/prompt/" in path for path in store.objects())

    stored(test)


def item_path(result: Variant) -> Any:
    return result.value[0]


def test_a_prompt_that_is_dismissed_or_pushed_out_unlocks_nothing() -> None:
    async def test(bus: PrivateBus, store: Any, client: Client) -> None:
        await client.service.lock([ObjectPath(LOGIN)])
        paths = []
        for _ in range(store_module.PROMPTS_MAX + 2):
            paths.append((await client.service.unlock([ObjectPath(LOGIN)]))[1])
        asked = [path for path in store.objects() if "/prompt/" in path]
        assert asked == paths[2:]
        prompt = await client.connection.registry.proxy(store_module.Prompt, NAME, paths[-1])
        async with signals_of(prompt) as signals:
            await prompt.dismiss()
            (completed,) = await signals.wait_for(1)
        assert completed.args == (True, Variant("ao", []))
        assert await client.login.locked
        with pytest.raises(DBusError, match="UnknownObject"):
            await client.connection.registry.proxy(store_module.Prompt, NAME, paths[0])

    stored(test)


def test_collections_come_and_go_and_have_aliases() -> None:
    async def test(bus: PrivateBus, store: Any, client: Client) -> None:
        service = client.service
        assert await service.read_alias("default") == LOGIN
        async with signals_of(service) as signals:
            properties = {"org.freedesktop.Secret.Collection.Label": Variant("s", "Work")}
            path, prompt = await service.create_collection(properties, "work")
            assert await service.create_collection({}, "work") == (path, "/")
            assert (prompt, await service.collections) == ("/", [LOGIN, path])
            work = await client.connection.registry.proxy(items_module.Collection, NAME, path)
            assert (await work.label, await service.read_alias("work")) == ("Work", path)
            await service.set_alias("default", path)
            assert await service.read_alias("default") == path
            alias = f"{PATH}/aliases/default"
            default = await client.connection.registry.proxy(items_module.Collection, NAME, alias)
            assert await default.label == "Work"
            await work.delete()
            heard = [each.member for each in await signals.all() if each.interface == SERVICE]
            assert heard == ["CollectionCreated", "CollectionDeleted"]
        assert await service.collections == [LOGIN]
        assert await service.read_alias("default") == await service.read_alias("work") == "/"
        with pytest.raises(items_module.NoSuchObject):
            await service.set_alias("x", ObjectPath("/nowhere"))
        await service.set_alias("default", ObjectPath(LOGIN))
        await service.set_alias("default", ObjectPath("/"))
        assert await service.read_alias("default") == "/"

    stored(test)


def test_an_item_is_changed_replaced_and_deleted() -> None:
    async def test(bus: PrivateBus, store: Any, client: Client) -> None:
        item = await client.create("Mail", b"hush", user="me")
        await item.label.set("Post")
        await item.attributes.set({"user": "you"})
        assert (await item.label, await item.attributes) == ("Post", {"user": "you"})
        properties = {"org.freedesktop.Secret.Item.Attributes": Variant("a{ss}", {"user": "you"})}
        await client.login.create_item(properties, client.secret(b"new"), True)
        assert (await item.get_secret(client.session)).value == b"new"
        await item.set_secret(client.secret(b"newer"))
        assert (await item.get_secret(client.session)).value == b"newer"
        assert len(await client.login.items) == 1
        async with signals_of(client.login) as signals:
            await item.delete()
            assert "ItemDeleted" in [heard.member for heard in await signals.all()]
        assert await client.service.search_items({}) == ([], [])

    stored(test)


def test_clients_get_no_more_than_they_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "ITEMS_MAX", 2)
    monkeypatch.setattr(store_module, "SESSIONS_MAX", 2)
    monkeypatch.setattr(store_module, "COLLECTIONS_MAX", 2)

    async def test(bus: PrivateBus, store: Any, client: Client) -> None:
        with pytest.raises(LimitsExceeded, match="an item of 65540 bytes, 65536 are allowed"):
            await client.create("Mail", bytes(65526))
        item = await client.create("Mail", b"hush")
        with pytest.raises(LimitsExceeded):
            await item.label.set("x" * 65537)
        await client.create("Other", b"hush")
        with pytest.raises(LimitsExceeded, match="Login has 2 items, 2 are allowed"):
            await client.create("Third", b"hush")
        held = await client.service.open_session("plain", Variant("s", ""))
        with pytest.raises(LimitsExceeded, match="2 sessions are open"):
            await client.service.open_session("plain", Variant("s", ""))
        await client.service.create_collection({}, "x")
        with pytest.raises(LimitsExceeded):
            await client.service.create_collection({}, "y")
        await client.service.set_alias("x", ObjectPath(LOGIN))
        with pytest.raises(LimitsExceeded):
            await client.service.set_alias("y", ObjectPath(LOGIN))
        assert held and len(store._sessions) == 2

    stored(test)


def test_what_makes_no_sense_is_refused_in_words() -> None:
    async def test(bus: PrivateBus, store: Any, client: Client) -> None:
        with pytest.raises(DBusError, match="NotSupported: no sessions with dh-ietf1024, but plain ones"):
            await client.service.open_session("dh-ietf1024", Variant("ay", b""))
        with pytest.raises(InvalidArgs, match=r"Item\.Label has type 's', not 'u'"):
            wrong = {"org.freedesktop.Secret.Item.Label": Variant("u", 1)}
            await client.login.create_item(wrong, client.secret(b""), False)
        with pytest.raises(InvalidArgs, match="no parameters"):
            secret = items_module.Secret(client.session, b"iv", b"", "")
            await client.login.create_item({}, secret, False)
        with pytest.raises(items_module.NoSuchObject, match="/nowhere"):
            await client.service.unlock([ObjectPath("/nowhere")])
        assert await client.login.items == []

    stored(test)
