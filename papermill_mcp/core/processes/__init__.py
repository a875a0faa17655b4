"""Child processes: how they are started, watched, recorded and ended."""
