"""Use of a trained network: predictions and exports."""
