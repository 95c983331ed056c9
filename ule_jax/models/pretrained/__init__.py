"""Weights of other libraries for the networks of this package."""
