"""Kernel templates over TVM's schedule IR."""
