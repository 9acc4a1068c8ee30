"""Value types, units, errors and protocols: standard library and numpy only."""
