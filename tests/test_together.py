"""One object made of several."""

from __future__ import annotations

from pathlib import Path

import anyio
import bus1_services
import pytest
from bus1_services import NOBODY, Caller, Int32, Interface, Str, method, prop, signal, together
from bus1_services.interface import interfaces_of
from core_peer import CoreBus, connections, introduce


class Lamp(Interface, name="org.example.Lamp1"):
    def __init__(self) -> None:
        self.value = 1

    @method
    def blink(self, times: Int32, caller: Caller = NOBODY) -> Str:
        return f"{times} by {caller.uid}"

    @prop
    def level(self) -> Int32:
        return self.value

    @level.setter
    def _set_level(self, level: int) -> None:
        self.value = level


class Bell(Interface, name="org.example.Bell1"):
    ended = False

    @signal
    def rung(self, times: Int32) -> None: ...

    @method
    async def ring(self) -> None:
        await self.rung(1)

    def unreferenced(self) -> None:
        self.ended = True


class Other(Interface, name="org.example.Other1"):
    @method
    def ring(self) -> None: ...


def test_each_part_answers_for_its_interface_and_emits_from_the_whole() -> None:
    async def main() -> None:
        lamp, bell = Lamp(), Bell()
        whole = together(lamp, bell)
        names = [spec.name for spec in interfaces_of(type(whole))]
        assert names == ["org.example.Lamp1", "org.example.Bell1"]
        async with connections(CoreBus(), 2) as (service, client):
            handle = await introduce(service, client, whole)
            far_lamp, far_bell = client.proxy(Lamp, handle), client.proxy(Bell, handle)
            assert (await far_lamp.blink(2)).startswith("2 by ")
            assert await far_lamp.blink(2) != await lamp.blink(2)
            await far_lamp.level.set(7)
            assert (await far_lamp.level, lamp.value) == (7, 7)
            async with far_bell.rung.subscribe() as rings:
                await far_bell.ring()
                await bell.rung(2)
                assert [await anext(rings), await anext(rings)] == [1, 2]
        whole.unreferenced()
        assert bell.ended

    anyio.run(main)


def test_parts_that_have_something_in_common_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Bell and Other have a member ring"):
        together(Bell(), Other())
    with pytest.raises(TypeError):
        together(Lamp(), Lamp())


def test_no_module_hides_a_public_name_of_the_package() -> None:
    modules = {path.stem for path in Path(bus1_services.__file__).parent.iterdir()}
    assert set(bus1_services.__all__) & modules == set()
