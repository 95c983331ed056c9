"""Configs: a file per data set; base.py is the schema."""
