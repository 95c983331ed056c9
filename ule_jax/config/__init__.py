"""Configs: their schema, their files, and the configs that runs have recorded."""
