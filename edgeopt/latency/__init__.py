"""Latency tables: keys, measurement, prediction."""
