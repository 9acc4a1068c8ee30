"""Microcontroller cores: building programs for machines that QEMU has, running and counting them.

A `Machine` is a core with its memories, UART, compilers and flags; `build` makes an image of C
files for it; `run` starts the image and returns what it printed and, if asked, exactly how many
instructions it executed, by counted region and by function. Counts come from a plugin of the
emulator, not from its clock. Instructions are not cycles: QEMU has no timing model.
"""

from edgeopt.codegen.machines.emulate import Output, run
from edgeopt.codegen.machines.image import Image, build
from edgeopt.codegen.machines.table import MACHINES, Machine, machine_for

__all__ = ["MACHINES", "Image", "Machine", "Output", "build", "machine_for", "run"]
