"""Earlier versions of notebooks, in a store of our own."""
