"""Runs: the life of one, its state for others to read, its file, and the record of earlier ones."""
