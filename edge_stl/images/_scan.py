"""A folder of images to a list of files and labels; no image is opened."""

import os
from collections.abc import Sequence
from pathlib import Path

from edge_stl.errors import DataError
from edge_stl.images._identities import Identities
from edge_stl.images._image_list import ImageList, ImageListBuilder
from edge_stl.images._labels_csv import LABELS_CSV, read_labels
from edge_stl.images._left_out import Ledger
from edge_stl.images._only import OnlyThese
from edge_stl.images._sorter import Sorter
from edge_stl.images._text import listed, normal, shown, suggestion
from edge_stl.images._walk import SUFFIXES, found, top_level, walk


_SPLITS = ("train", "training")


def scan(
    folder: str | os.PathLike[str], classes: Sequence[str], *, only: Identities | None = None
) -> ImageList:
    """List the images of a folder of class folders, or of a folder with ``labels.csv``.

    Class folders may have folders inside. Hidden entries and desktop litter are skipped; every
    other file that is no image is counted. A class without images is fine; where there is a
    ``labels.csv``, only the files it names are looked at. Names of classes are compared in
    Unicode normal form C.

    Args:
        folder: The folder.
        classes: The plan's classes, in its order.
        only: Take these images alone, as `identities` saw them; others, and those that have
            changed since, are left out as ``not_yet``.

    Returns:
        The images, sorted by label and then by path as text.

    Raises:
        DataError: The folder is none, holds no image, has a class folder or label that the plan
            does not know, or its ``labels.csv`` is no such table.
        ResourceError: The folder may not be read.
    """
    root = Path(folder)
    folders, files = top_level(root)
    label_of = {normal(name): label for label, name in enumerate(classes)}
    left_out = Ledger()
    found_here = (
        ImageListBuilder(root, len(classes))
        if only is None
        else OnlyThese(root, classes, only=only, left_out=left_out)
    )
    if LABELS_CSV in files:
        _scan_table(root, label_of, found_here, left_out)
    else:
        unknown = [name for name in folders if normal(name) not in label_of]
        if unknown:
            raise DataError(_unknown_folders(root, unknown, folders, label_of))
        labelled = [(name, label_of[normal(name)]) for name in folders]
        for label, file in walk(root, labelled, left_out):
            found_here.add(label, file)
        for name in files:
            if not name.lower().endswith(SUFFIXES):
                left_out.note(name, "not_an_image")
            elif found(root, name, left_out):
                left_out.note(name, "no_class")
    images = found_here.build(left_out)
    if not images:
        counts = ", ".join(f"{count} {reason}" for reason, count in images.left_out.items())
        raise DataError(
            f"{shown(root)}: holds no image of a class ({counts or 'it is empty'}); expected "
            f"folders named {listed(list(classes))}, or {LABELS_CSV} with file_name,label. "
            "Check the path."
        )
    return images


def _scan_table(
    root: Path, label_of: dict[str, int], found_here: ImageListBuilder, left_out: Ledger
) -> None:
    rows = Sorter(3)
    where = shown(root / LABELS_CSV)
    for line, name, text in read_labels(root):
        if text not in label_of:
            raise DataError(
                f"{where} line {line}: label '{shown(text)}' is not a class of the plan"
                f"{suggestion(text, label_of)}; classes are {listed(list(label_of))}. "
                "Correct the label or remove the line."
            )
        # so wide that lines sort as numbers do
        rows.add(name, f"{line:012}", text)
    clash: tuple[int, str, str, str] | None = None
    before: str | None = None
    above = ""
    for name, number, text in rows.drain():
        if name != before:
            before, above = name, text
            if clash is None and (file := found(root, name, left_out)):
                found_here.add(label_of[text], file)
        elif text != above and (clash is None or int(number) < clash[0]):
            clash = (int(number), name, text, above)
    if clash is not None:
        line, name, text, above = clash
        raise DataError(
            f"{where} line {line}: '{shown(name)}' is '{shown(text)}' here and "
            f"'{shown(above)}' above; expected one label. Remove one of the lines."
        )


def _unknown_folders(
    root: Path, unknown: list[str], folders: list[str], label_of: dict[str, int]
) -> str:
    classes = listed(list(label_of))
    if len(unknown) == len(folders):
        for name in _SPLITS:
            inner = root / name
            if name in folders and {normal(sub) for sub in top_level(inner)[0]} & set(label_of):
                return (
                    f"{shown(root)}: its folders are {listed(folders)}, not classes of the plan; "
                    f"classes are {classes}. Use {shown(inner)}."
                )
    others = f" (nor are {listed(unknown[1:])})" if unknown[1:] else ""
    return (
        f"{shown(root / unknown[0])}: not a class of the plan{suggestion(unknown[0], label_of)}"
        f"{others}; classes are {classes}. Rename or remove the folder."
    )
