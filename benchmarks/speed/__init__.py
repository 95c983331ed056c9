"""Time and memory of a training step, and the rate of the input pipeline."""
