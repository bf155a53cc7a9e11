"""Heads: the levels of a pyramid to detections, and the loss that they learn from."""
