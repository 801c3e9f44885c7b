"""Runs the command line: `python -m omnitune`."""

from omnitune.cli.main import main

main()
