"""The end of a refusal: the nearest valid name, or all of them when they are few."""

import difflib
from collections.abc import Iterable


_FEW = 12
_MANY = 1000  # names to compare with: each takes twenty microseconds


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` or ``"; expected one of a, b"``, ready to be appended."""
    names = list(valid)
    # Plain closeness first, then without regard to case: 'CA1' means 'cA1'.
    close = difflib.get_close_matches(name, names[:_MANY], n=1)
    if not close:
        folded = {n.casefold(): n for n in reversed(names[:_MANY])}
        close = [folded[c] for c in difflib.get_close_matches(name.casefold(), folded, n=1)]
    if close:
        return f"; did you mean {close[0]!r}?"
    if len(names) <= _FEW:
        return f"; expected one of {', '.join(names)}"
    return f"; expected one of {', '.join(names[:_FEW])}, … ({len(names)} in all)"
