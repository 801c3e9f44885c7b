"""Runs the command line: `python -m omnitune`."""

from omnitune.cli.main import main

if __name__ == "__main__":
    main()
