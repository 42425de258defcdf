# A player in the way of MPRIS: pydbus, two interfaces, one class.
from gi.repository import GLib
from pydbus import SessionBus
from pydbus.generic import signal


class Player(object):
    dbus = """
    <node>
      <interface name="org.example.Media">
        <method name="Raise"/>
        <property name="Identity" type="s" access="read"/>
        <property name="Fullscreen" type="b" access="readwrite"/>
      </interface>
      <interface name="org.example.Media.Player">
        <method name="Play"><arg type="b" direction="out"/></method>
        <method name="SetPosition"><arg type="o" name="track" direction="in"/><arg type="x" direction="in"/></method>
        <property name="Rate" type="d" access="readwrite"/>
        <property name="Metadata" type="a{sv}" access="read"/>
        <signal name="Seeked"><arg type="x" name="position"/></signal>
      </interface>
    </node>
    """
    PropertiesChanged = signal()
    Seeked = signal()
    Identity = "Player"
    Fullscreen = False

    def __init__(self):
        self.rate = 1.0
        self.is_raised = False

    def Raise(self):
        self.is_raised = True

    def Play(self):
        self.SetPosition("/track/1", 0)
        return self.is_raised

    def SetPosition(self, track, position):
        self.Seeked(position)

    @property
    def Rate(self):
        return self.rate

    @Rate.setter
    def Rate(self, value):
        self.rate = value
        self.PropertiesChanged("org.example.Media.Player", {"Rate": value}, [])

    @property
    def Metadata(self):
        return {"mpris:length": GLib.Variant("x", 7)}


if __name__ == "__main__":
    loop = GLib.MainLoop()
    bus = SessionBus()
    bus.publish("org.example.Media", Player())
    loop.run()
