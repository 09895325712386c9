"""Checks, measures and compares Dreamer: parity, bench, results. Nothing but the commands of this room imports it."""
