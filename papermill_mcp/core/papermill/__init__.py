"""Papermill: the recipe of a run with parameters, and going on in the output of one."""
