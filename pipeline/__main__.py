"""`python -m pipeline` is the same as `descry`."""

from pipeline.cli import main

main()
