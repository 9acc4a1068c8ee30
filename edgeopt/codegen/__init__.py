"""Kernels, memory plan and the generated runner: from a network to C and objects."""
