"""Backbones, interactions, the RetinaNet around them and the saved form of a trained model."""
