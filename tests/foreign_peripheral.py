# mypy: ignore-errors
"""foreign_peripheral: a program around bluez-peripheral, which is written for dbus-next."""

import asyncio

from bluez_peripheral.advert import Advertisement
from bluez_peripheral.agent import NoIoAgent
from bluez_peripheral.gatt.characteristic import CharacteristicFlags, characteristic
from bluez_peripheral.gatt.service import Service
from bluez_peripheral.util import Adapter, get_message_bus


class Thermometer(Service):
    """One value that can be read, written and notified."""

    def __init__(self):
        self.celsius = b"\x14"
        super().__init__("1809", True)

    @characteristic("2A1C", CharacteristicFlags.READ | CharacteristicFlags.WRITE | CharacteristicFlags.NOTIFY)
    def temperature(self, options):
        """The temperature."""
        return self.celsius + options.offset.to_bytes(1, "little")

    @temperature.setter
    def temperature(self, value, options):
        self.celsius = value
        type(self).temperature.changed(value)


async def main():
    bus = await get_message_bus()
    thermometer = Thermometer()
    await thermometer.register(bus)
    await NoIoAgent().register(bus)
    adapter = await Adapter.get_first(bus)
    print(await adapter.get_address(), flush=True)
    await Advertisement("Thermometer", ["1809"], 0x0300, 60).register(bus, adapter)
    print("advertised", flush=True)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(main())
