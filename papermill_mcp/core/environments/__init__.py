"""Which Pythons there are, and the start of a kernel in one of them.

Looking never runs a program: `reading` and `discovery` read names and small files only. `starting` is for kernels.
"""
