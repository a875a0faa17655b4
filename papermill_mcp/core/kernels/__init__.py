"""Kernels: processes, wire, queue, outputs and variables."""
