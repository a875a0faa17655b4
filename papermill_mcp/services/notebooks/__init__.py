"""Notebooks: edits, views and the walk over directories."""
