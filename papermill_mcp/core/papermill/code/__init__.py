"""Parameters as code, in every language that papermill knows."""
