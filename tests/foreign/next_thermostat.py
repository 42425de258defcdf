"""A thermostat: dbus-next, with types as texts."""
import asyncio
import signal as signals
import time
from dataclasses import dataclass, field

from dbus_next import Variant, DBusError
from dbus_next.aio import MessageBus
from dbus_next.constants import PropertyAccess
from dbus_next.service import (ServiceInterface, method, dbus_property,
                               signal)

IFACE = 'org.example.Thermostat1'


@dataclass
class Reading:
    """One measurement."""
    celsius: float
    room: str = 'hall'
    at: float = field(default_factory=time.time)


class ThermostatInterface(ServiceInterface):
    '''Keeps rooms warm.'''

    def __init__(self, name, rooms=()):
        super().__init__(name)
        self.rooms = {room: Reading(20.0, room) for room in rooms}
        self._target = 21.5
        self._mode = 'auto'

    @method()
    def GetRooms(self) -> 'a(sd)':
        return [[room.room, room.celsius] for room in self.rooms.values()]

    @method()
    async def Measure(self, room: 's', celsius: 'd') -> 'b':
        if room not in self.rooms:
            raise DBusError('org.example.Error.NoRoom', 'no room ' + room)
        changed = self.rooms[room].celsius != celsius
        self.rooms[room] = Reading(celsius, room)
        if changed:
            self.report(room)
        return self.is_cold(room)

    @method()
    def Import(self, values: 'a{sd}', merge: 'b') -> 'i':
        """Take over readings from elsewhere."""
        if not merge:
            self.rooms.clear()
        for room, celsius in values.items():
            self.rooms[room] = Reading(celsius, room)
            self.report(room)
        return len(self.rooms)

    @method()
    def IsCold(self, room: 's') -> 'b':
        return self.is_cold(room)

    @method()
    def Reset(self):
        self.Target = 18.0
        self.Mode = 'eco'

    @method()
    def Snapshot(self) -> 'a{sv}':
        return {
            'rooms': Variant('as', list(self.rooms)),
            'target': Variant('d', self.Target),
        }

    def is_cold(self, room):
        return self.rooms[room].celsius < self._target

    def report(self, room):
        self.Measured(room, self.rooms[room].celsius)

    @dbus_property()
    def Target(self) -> 'd':
        return self._target

    @Target.setter
    def Target(self, val: 'd'):
        if not 5 <= val <= 30:
            raise DBusError('org.example.Error.Range', f'{val} is out of range')
        self._target = val
        self.emit_properties_changed({'Target': val})
        self.TargetReached()

    @dbus_property()
    def Mode(self) -> 's':
        return self._mode

    @Mode.setter
    def Mode(self, val: 's'):
        self._mode = val
        self.emit_properties_changed({'Mode': self._mode})

    @dbus_property(access=PropertyAccess.READ)
    def Rooms(self) -> 'as':
        return list(self.rooms)

    @signal()
    def Measured(self, room, celsius) -> 'sd':
        """A room has another temperature."""
        return [room, celsius]

    @signal()
    def TargetReached(self) -> 'as':
        # those that are warm enough
        warm = [room for room in self.rooms if not self.is_cold(room)]
        return warm


async def serve():
    bus = await MessageBus().connect()
    thermostat = ThermostatInterface(IFACE, rooms=('hall', 'bath'))
    bus.export('/org/example/Thermostat', thermostat)
    await bus.request_name('org.example.Thermostat')
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signals.SIGINT, stop.set)
    await stop.wait()


if __name__ == '__main__':
    asyncio.run(serve())
