"""Compositions: compile, profile, verify, report."""
