"""The folder of a run: everything that is written there, and read back."""
