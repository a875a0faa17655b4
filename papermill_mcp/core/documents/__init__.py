"""Notebook documents: parsing that keeps every byte, checks, and JSON text."""
