"""``python -m edge_stl`` is the ``edge-stl`` command."""

import sys

from edge_stl.cli import main


if __name__ == "__main__":
    sys.exit(main())
