"""The ``edge-stl`` command: the composition root, which imports the rooms lazily."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line in this process.

    Args:
        argv: arguments without the program's name; by default those of the process.

    Returns:
        the exit code.
    """
    from edge_stl.cli import _app

    return _app.main(argv)


def console() -> None:
    """Entry point of the installed command, which has the process to itself."""
    import sys

    from edge_stl._parent import supervised

    # Before anything else is loaded: what the parent of an agent holds is what is loaded by now.
    supervised(sys.argv[1:])
    sys.exit(main())
