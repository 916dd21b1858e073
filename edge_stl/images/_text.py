"""Names of files and classes inside a sentence: one line, comparable, with a suggestion."""

import difflib
import os
import unicodedata
from collections.abc import Iterable, Sequence


# a plan may have a thousand classes; an error is one line that somebody reads
MOST_NAMES = 12


def shown(name: str | os.PathLike[str]) -> str:
    """Make a name fit for one line of text: control characters and broken bytes are escaped.

    Args:
        name: Any file name, also with newlines or bytes that are not UTF-8.

    Returns:
        The name, printable.
    """
    text = os.fspath(name)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def as_utf_8(name: str) -> str:
    r"""Make a name fit for JSON: bytes that are not UTF-8 become ``\xNN``, all else stays.

    Args:
        name: A file name as Python gives it, with surrogates for such bytes.

    Returns:
        Text that UTF-8 can hold.
    """
    data = name.encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "backslashreplace")


def normal(name: str) -> str:
    """Give the form in which names are compared.

    Some file systems store a decomposed umlaut, editors write a composed one: both are one class.

    Args:
        name: A class name or folder name.

    Returns:
        The name in Unicode normal form C.
    """
    return unicodedata.normalize("NFC", name)


def listed(names: Sequence[str]) -> str:
    """Join names for a sentence, cut after the first few.

    Args:
        names: The names, in the order to show.

    Returns:
        For example ``car, truck`` or ``a, b, … and 88 more``.
    """
    head = ", ".join(shown(name) for name in names[:MOST_NAMES])
    rest = len(names) - MOST_NAMES
    return f"{head} and {rest} more" if rest > 0 else head


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Args:
        name: What was found.
        known: What would have been right.

    Returns:
        `` (did you mean 'x'?)`` with a leading blank, or an empty text.
    """
    # two names that differ in case only are nearest, whatever difflib counts
    by_folded = {normal(other).casefold(): other for other in known}
    near = difflib.get_close_matches(normal(name).casefold(), list(by_folded), n=1)
    return f" (did you mean '{shown(by_folded[near[0]])}'?)" if near else ""
