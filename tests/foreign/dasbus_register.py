# A register of people, written with dasbus.
import logging

from dasbus.connection import SessionMessageBus
from dasbus.error import DBusError, ErrorMapper, get_error_decorator
from dasbus.identifier import DBusServiceIdentifier
from dasbus.loop import EventLoop
from dasbus.server.interface import (
    dbus_interface, dbus_signal, returns_multiple_arguments,
)
from dasbus.server.property import PropertiesInterface, emits_properties_changed
from dasbus.typing import *

log = logging.getLogger(__name__)

error_mapper = ErrorMapper()
dbus_error = get_error_decorator(error_mapper)
SESSION_BUS = SessionMessageBus(error_mapper=error_mapper)

REGISTER_NAMESPACE = ("org", "example", "Register")
REGISTER = DBusServiceIdentifier(
    namespace=REGISTER_NAMESPACE,
    message_bus=SESSION_BUS
)


@dbus_error("InvalidUser", namespace=REGISTER_NAMESPACE)
class InvalidUser(DBusError):
    """The user is not valid."""


@dbus_interface(REGISTER.interface_name)
class Register(PropertiesInterface):
    """The DBus interface of the user register."""

    def __init__(self):
        super().__init__()
        self._users = {}
        self._greeting = "Hello"
        self._open = True

    @property
    def Users(self) -> List[Str]:
        """The list of users."""
        return sorted(self._users)

    @property
    def Greeting(self) -> Str:
        return self._greeting

    @Greeting.setter
    @emits_properties_changed
    def Greeting(self, value: Str):
        self._greeting = value
        self.report_changed_property("Greeting")

    @property
    def Open(self) -> Bool:
        return self._open

    @emits_properties_changed
    def AddUser(self, name: Str, data: Structure) -> Int:
        """Add a user; data may have an age."""
        if not name or name in self._users:
            raise InvalidUser("User {} is not valid.".format(name))

        age = get_native(data).get("age", 0)
        self._users[name] = age
        self.report_changed_property("Users")
        self.UserAdded(name)
        return len(self._users)

    def GetUser(self, name: Str) -> Structure:
        self._check(name)
        return {
            "name": get_variant(Str, name),
            "age": get_variant(Int, self._users[name]),
            "tags": get_variant(List[Str], ["member"]),
        }

    @returns_multiple_arguments
    def Greet(self, name: Str) -> Tuple[Str, Bool]:
        self._check(name)
        return "{}, {}".format(self._greeting, name), True

    def Place(self, where: Tuple[Int, Double]) -> Tuple[Double, Int]:
        first, second = where
        return (second, first)

    def Twice(self, value: Variant) -> Variant:
        number = value.unpack()
        return Variant("x", 2 * number)

    @emits_properties_changed
    def Close(self):
        self._open = False
        self.report_changed_property("Open")
        self.Closed.emit()

    def Count(self) -> UInt32:
        return UInt32(len(self.Users))

    def _check(self, name):
        if name not in self._users:
            raise InvalidUser("No user {}.".format(name))

    @dbus_signal
    def UserAdded(self, name: Str):
        """Signal that a user has been added."""

    Closed = dbus_signal()


if __name__ == "__main__":
    logging.basicConfig()

    # Create the register.
    register = Register()

    # Publish the register at /org/example/Register.
    SESSION_BUS.publish_object(REGISTER.object_path, register)

    # Register the service name org.example.Register.
    SESSION_BUS.register_service(REGISTER.service_name)

    # Start the event loop.
    loop = EventLoop()
    loop.run()
