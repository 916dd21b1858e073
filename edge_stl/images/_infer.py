"""The classes that a folder of images has, for somebody who has no plan yet."""

import os
from pathlib import Path

from edge_stl.errors import DataError
from edge_stl.images._labels_csv import LABELS_CSV, read_labels
from edge_stl.images._text import normal, shown
from edge_stl.images._walk import top_level


def class_names(folder: str | os.PathLike[str]) -> list[str]:
    """Name the classes of a folder of class folders, or of its ``labels.csv``.

    Args:
        folder: The folder, in one of the two layouts that `scan` reads.

    Returns:
        The distinct names in Unicode normal form C, sorted as text.

    Raises:
        DataError: The folder is none or names no class.
        ResourceError: The folder may not be read.
    """
    root = Path(folder)
    folders, files = top_level(root)
    if LABELS_CSV in files:
        names = {label for _, _, label in read_labels(root)}
    else:
        names = {normal(name) for name in folders}
    if not names - {""}:
        raise DataError(
            f"{shown(root)}: names no class; expected class folders, or {LABELS_CSV} with "
            "file_name,label. Check the path."
        )
    return sorted(names - {""})
