"""Engines: the trained network, compiled for prediction by one of several libraries behind one contract."""

from unetpipe.engines.contract import Engine, Profile
from unetpipe.engines.mirrored import mirrored
from unetpipe.engines.select import device_class, load_engine

__all__ = ["Engine", "Profile", "device_class", "load_engine", "mirrored"]
