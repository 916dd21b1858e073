"""``python -m edge_stl`` is the ``edge-stl`` command."""

from edge_stl.cli import console


if __name__ == "__main__":
    console()
