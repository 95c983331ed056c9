"""Training of one config."""
