"""How the settings of the methods are checked."""

from edge_stl.errors import UsageError


def check_ranges(*rows: tuple[str, object, bool, str]) -> None:
    """Check settings, each given as its name, its value, whether it is good, and what is wanted.

    Raises:
        UsageError: one is out of its range; the first is named.
    """
    for name, value, good, wanted in rows:
        if not good:
            raise UsageError(f"{name} = {value!r}: out of range; expected {wanted}. Change it")
