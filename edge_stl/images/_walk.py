"""Finding files under a folder, with a constant amount of memory per open folder."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_stl.errors import DataError, ResourceError
from edge_stl.images._image_list import Found
from edge_stl.images._left_out import Ledger
from edge_stl.images._paths import Paths
from edge_stl.images._reasons import reason_of_os_error
from edge_stl.images._sorter import Sorter
from edge_stl.images._text import shown


SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"),
    *(".bmp", ".dib", ".tif", ".tiff", ".gif"),
)

_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})


def is_litter(name: str) -> bool:
    """Say whether an entry is none of the user's: hidden, or left by a desktop.

    Args:
        name: The name without its folder.

    Returns:
        True for names that are skipped without being counted.
    """
    return name.startswith(".") or name.casefold() in _LITTER


def top_level(folder: Path) -> tuple[list[str], Paths]:
    """List the folder that the user named.

    Args:
        folder: The folder.

    Returns:
        (folders, files): names, sorted as text, without litter; a link to a folder is a folder.

    Raises:
        DataError: It is not there, or no folder.
        ResourceError: It may not be read.
    """
    folders: list[str] = []
    files = Sorter(1)  # the images themselves, where there is a labels.csv
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_litter(entry.name):
                    if _is_folder(entry):
                        folders.append(entry.name)
                    else:
                        files.add(entry.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{shown(folder)}: is no folder; expected a folder of class folders, or one with "
            "labels.csv. Check the path."
        ) from error
    except OSError as error:
        raise ResourceError(
            f"{shown(folder)}: cannot be listed ({error.strerror}); expected a readable folder. "
            "Check its permissions."
        ) from error
    return sorted(folders), Paths(name for (name,) in files.drain())


def found(root: Path, name: str, left_out: Ledger) -> Found | None:
    """Look at one file.

    Args:
        root: The folder that paths are relative to.
        name: The relative POSIX path.
        left_out: Gets the file with a reason if it is none.

    Returns:
        The file, or None when it is left out.
    """
    return _checked(name, lambda: os.stat(root / name), left_out)  # noqa: PTH116


def walk(
    root: Path, folders: list[tuple[str, int]], left_out: Ledger
) -> Iterator[tuple[int, Found]]:
    """Find the image files of class folders, at any depth.

    Links to files are followed. Links to folders too, after all real folders, and every real
    folder is listed once: a loop ends, and which of two names a file gets does not depend on the
    order in which the file system answers.

    Args:
        root: The folder that paths are relative to.
        folders: (relative path, label) of every class folder.
        left_out: Gets the files that are none, and folders that cannot be listed.

    Yields:
        (label, file).
    """
    real = deque(item for item in folders if not (root / item[0]).is_symlink())
    links = deque(item for item in folders if (root / item[0]).is_symlink())
    above = os.stat(root)  # noqa: PTH116  (a link back to the root must not list it again)
    visited = {(above.st_dev, above.st_ino)}
    while real or links:
        name, label = real.popleft() if real else links.popleft()
        inner: list[tuple[str, bool]] = []
        try:
            status = os.stat(root / name)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(root / name) as entries:
                for entry in entries:
                    if is_litter(entry.name):
                        continue
                    path = f"{name}/{entry.name}"
                    if _is_folder(entry):
                        inner.append((path, entry.is_symlink()))
                    elif file := _checked(path, entry.stat, left_out):
                        yield label, file
        except OSError as error:
            left_out.note(name, reason_of_os_error(error))
        for path, is_link in sorted(inner):
            (links if is_link else real).append((path, label))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _checked(path: str, status_of: Callable[[], os.stat_result], left_out: Ledger) -> Found | None:
    try:
        status = status_of()
    except OSError as error:
        left_out.note(path, reason_of_os_error(error))
        return None
    if not stat.S_ISREG(status.st_mode):
        left_out.note(path, "not_a_file")
        return None
    if not path.lower().endswith(SUFFIXES):
        left_out.note(path, "not_an_image")
        return None
    return Found(path, status.st_size, status.st_mtime_ns)
