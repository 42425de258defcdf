"""A chat room: dasbus, with the interface apart from what implements it."""
from dasbus.connection import SessionMessageBus
from dasbus.loop import EventLoop
from dasbus.server.interface import dbus_interface, dbus_signal
from dasbus.server.property import emits_properties_changed
from dasbus.server.publishable import Publishable
from dasbus.server.template import InterfaceTemplate
from dasbus.signal import Signal
from dasbus.typing import Int, List, Str


@dbus_interface("org.example.Chat1")
class ChatInterface(InterfaceTemplate):
    """The interface of the room."""

    def connect_signals(self):
        super().connect_signals()
        self.implementation.message_sent.connect(self.MessageReceived)
        self.watch_property("Topic", self.implementation.topic_changed)
        self.implementation.topic_changed.connect(self.flush_changes)

    @dbus_signal
    def MessageReceived(self, who: Str, text: Str):
        """Somebody has said something."""

    @property
    def Topic(self) -> Str:
        return self.implementation.topic

    @property
    def Lines(self) -> List[Str]:
        return self.implementation.lines

    @emits_properties_changed
    def SetTopic(self, topic: Str):
        """Talk about something else."""
        self.implementation.set_topic(topic)

    def Say(self, who: Str, text: Str) -> Int:
        return self.implementation.say(who, text)


class Chat(Publishable):
    """The room."""

    def __init__(self):
        self.topic = "weather"
        self.topic_changed = Signal()
        self.message_sent = Signal()
        self.lines = []

    def for_publication(self):
        """What stands for it on the bus."""
        return ChatInterface(self)

    def set_topic(self, topic):
        self.topic = topic
        self.topic_changed.emit()

    def say(self, who, text):
        self.lines.append(f"{who}: {text}")
        self.message_sent.emit(who, text)
        return len(self.lines)


if __name__ == "__main__":
    bus = SessionMessageBus()
    chat = Chat()
    bus.publish_object("/org/example/Chat", chat.for_publication())
    bus.register_service("org.example.Chat")
    EventLoop().run()
