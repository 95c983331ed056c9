"""Worst-group accuracy of ULE, its controls and its rivals."""
