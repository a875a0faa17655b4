"""The plain Python that is missing: files, text, processes. Nothing here knows Jupyter."""
