"""Runs of code, notebooks and batches: requests, the four kinds of run, and the registry that follows them."""
