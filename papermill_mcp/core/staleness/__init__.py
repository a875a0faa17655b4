"""Which cells of a notebook no longer belong to the source above them."""
