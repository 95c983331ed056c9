"""Explanations of a trained network: saliency, clusters of mistakes, the diagnosis."""
