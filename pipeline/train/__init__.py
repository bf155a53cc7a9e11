"""The optimisation step, checkpoints and the assembly of a training run."""
