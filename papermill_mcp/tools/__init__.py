"""The interface for the model: tools, arguments and replies."""
