"""Devices: mesh, collectives, processes, and the process-wide settings of JAX."""
