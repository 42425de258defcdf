"""A notebook, written with python-sdbus."""
from __future__ import annotations

import asyncio
from typing import Any, Dict, List, Tuple

from sdbus import (
    DbusFailedError,
    DbusInterfaceCommonAsync,
    DbusPropertyEmitsChangeFlag,
    DbusUnprivilegedFlag,
    dbus_method_async,
    dbus_property_async,
    dbus_signal_async,
    request_default_bus_name_async,
    sd_bus_open_user,
    set_default_bus,
)

VariantDict = Dict[str, Tuple[str, Any]]


class NoSuchNote(DbusFailedError):
    dbus_error_name = 'org.example.Notebook.NoSuchNote'


class Notebook(
    DbusInterfaceCommonAsync,
    interface_name='org.example.Notebook1',
):
    """Notes by number."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: Dict[int, str] = {}
        self.counter = 0
        self._owner = 'nobody'
        self._count = 0

    @dbus_method_async(
        input_signature='s',
        result_signature='u',
        flags=DbusUnprivilegedFlag,
        result_args_names=('number',),
    )
    async def add_note(self, text: str) -> int:
        self.counter += 1
        self.notes[self.counter] = text
        await self.count.set_async(len(self.notes))
        self.note_added.emit((self.counter, text))
        return self.counter

    @dbus_method_async('u', 's')
    async def get_note(self, number: int) -> str:
        if number not in self.notes:
            raise NoSuchNote(f'no note {number}')
        return self.notes[number]

    @dbus_method_async('u')
    async def remove_note(self, number: int) -> None:
        await self.get_note(number)  # or fail
        del self.notes[number]
        await self.count.set_async(len(self.notes))
        self.note_removed.emit(number)

    @dbus_method_async(result_signature='a(us)', method_name='ListAll')
    async def list_notes(self) -> List[Tuple[int, str]]:
        return sorted(self.notes.items())

    @dbus_method_async('a{sv}', 'a{sv}')
    async def details(self, options: VariantDict) -> VariantDict:
        kind, value = options.get('limit', ('u', 0))
        return {
            'limit': ('u', value),
            'kind': ('s', kind),
            'echo': ('v', options.get('echo', ('s', 'none'))),
        }

    @dbus_method_async('si', 'is')
    async def swap(self, text: str, number: int) -> Tuple[int, str]:
        return number, text

    @dbus_property_async('u', flags=DbusPropertyEmitsChangeFlag)
    def count(self) -> int:
        return self._count

    @count.setter_private
    def count_setter(self, value: int) -> None:
        self._count = value

    @dbus_property_async('s', flags=DbusPropertyEmitsChangeFlag, property_name='Owner')
    def owner(self) -> str:
        return self._owner

    @owner.setter
    def owner_set(self, value: str) -> None:
        self._owner = value

    @dbus_property_async('v')
    def anything(self) -> Tuple[str, Any]:
        return ('as', list(self.notes.values()))

    @dbus_signal_async('us', signal_args_names=('number', 'text'))
    def note_added(self) -> Tuple[int, str]:
        raise NotImplementedError

    @dbus_signal_async('u')
    def note_removed(self) -> int:
        raise NotImplementedError


async def startup(notebook: Notebook) -> None:
    set_default_bus(sd_bus_open_user())
    notebook.export_to_dbus('/org/example/Notebook')
    await request_default_bus_name_async('org.example.Notebook')


def main() -> None:
    loop = asyncio.new_event_loop()
    notebook = Notebook()
    loop.run_until_complete(startup(notebook))
    loop.run_forever()


if __name__ == '__main__':
    main()
