"""`python -m rcatool`: the same as the command `rca`."""

from rcatool.cli import entry

if __name__ == "__main__":
    entry()
