"""Device profiles and the ways to reach a device."""

from edgeopt.devices.profile import available, load, load_file, shipped_dir

__all__ = ["available", "load", "load_file", "shipped_dir"]
