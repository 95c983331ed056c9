"""Measurements: how each number of the README and of docs/ was made. Start with README.md here."""
