"""How Jupyter does it: kernel processes, messages, notebook documents, papermill runs."""
