"""Symbols, state, provenance, exact equality and safe parsing: what every other part stands on."""
