"""The assembly: what each stage of dvc.yaml does, from the parameters to plain function calls.

This is the only place besides `pipeline.config` that knows params.yaml. A stage's module imports
all that the stage needs; so the command line imports it only once the parameters are known to be
right.
"""

from pathlib import Path

DATASETS = Path("datasets")
RUNS = Path("runs")
