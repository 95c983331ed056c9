"""Training of many runs as one graph."""
