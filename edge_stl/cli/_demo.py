"""``edge-stl demo``: the whole way on one machine, pictures at the end."""


def demo() -> None:
    """Run the whole way."""
