"""The parts of benchmarks/gpu.py: units and their plan, the runner, the pieces, the summary."""
