#!/usr/bin/env python3
# A heater, written with pydbus.
import json
import tempfile
from gi.repository import GLib
from pydbus import SessionBus
from pydbus.generic import signal

LIMIT = 90


class Heater(object):
	"""
	<node>
	  <interface name='org.example.Heater1'>
	    <method name='Heat'>
	      <arg type='i' name='degrees' direction='in'/>
	      <arg type='i' name='now' direction='out'/>
	    </method>
	    <method name='Configure'>
	      <arg type='a{sv}' name='options' direction='in'/>
	      <arg type='s' name='json' direction='out'/>
	    </method>
	    <method name='Report'>
	      <arg type='s' direction='out'/>
	      <arg type='a{sv}' direction='out'/>
	    </method>
	    <method name='Save'/>
	    <property name='Temperature' type='i' access='read'>
	      <annotation name='org.freedesktop.DBus.Property.EmitsChangedSignal' value='true'/>
	    </property>
	    <property name='Name' type='s' access='readwrite'/>
	    <property name='Model' type='s' access='read'/>
	    <signal name='Hot'>
	      <arg type='i' name='degrees'/>
	    </signal>
	    <signal name='Saved'/>
	  </interface>
	</node>
	"""

	PropertiesChanged = signal()
	Hot = signal()
	Saved = signal()

	Model = "H-1"	# as on the label

	def __init__(self, name="boiler"):
		self._temperature = 20
		self._name = name
		self.options = {}

	def Heat(self, delta):
		self._temperature += delta
		self._changed()
		if self._temperature > LIMIT:
			self.Hot(self._temperature)
		return self._temperature

	def Configure(self, options):
		self.options.update(options)
		return json.dumps(self.options, sort_keys=True)

	def Report(self):
		# what a technician wants to know
		return self.Name, {"temperature": GLib.Variant("i", self.Temperature), "model": GLib.Variant("s", self.Model)}

	def Save(self):
		with tempfile.TemporaryFile("w") as file:
			json.dump(self.options, file)
		self.Saved.emit()

	def _changed(self):
		self.PropertiesChanged("org.example.Heater1", {"Temperature": self.Temperature}, [])

	@property
	def Temperature(self):
		return self._temperature

	@property
	def Name(self):
		return self._name

	@Name.setter
	def Name(self, value):
		self._name = value
		self.PropertiesChanged("org.example.Heater1", {"Name": self.Name}, [])


bus = SessionBus()
bus.publish("org.example.Heater", Heater("cellar"), ("spare", Heater()))
loop = GLib.MainLoop()
loop.run()
