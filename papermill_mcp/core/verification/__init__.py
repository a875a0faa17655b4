"""Comparing the results of a notebook with those of a fresh run."""
