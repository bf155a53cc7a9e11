"""Seeing inside a trained detector: what it attends to, and how two detectors differ."""
