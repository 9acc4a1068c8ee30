"""Calibration, quantized export and simulation."""
