"""What the model may ask, and what it is told."""
