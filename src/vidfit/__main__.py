"""`python -m vidfit` is the `vidfit` command, for launchers that start a Python module."""

from vidfit.cli import main

if __name__ == "__main__":
    main()
