"""Evaluators emitted for the bundled derivations; regenerated and compared by ``symprop generate --check``."""
