"""Reading ``labels.csv``: which file of a folder shows which class."""

import csv
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from edge_stl.errors import DataError, ResourceError
from edge_stl.images._text import normal, shown


LABELS_CSV = "labels.csv"

_HEADER = ("file_name", "label")


def read_labels(folder: Path) -> Iterator[tuple[int, str, str]]:
    """Read the rows of ``folder/labels.csv``: UTF-8, with or without a byte order mark.

    The first line names the columns; ``file_name`` and ``label`` must be there, others are
    ignored. File names are relative to the folder and stay inside it.

    Args:
        folder: The folder of the images.

    Yields:
        (line, file name, label): the line in the file, the relative POSIX path without ``./``,
        the label in Unicode normal form C without blanks around it.

    Raises:
        DataError: The file is no such table, or a name leaves the folder.
        ResourceError: The file may not be read.
    """
    table = folder / LABELS_CSV
    where = shown(table)
    try:
        if not stat.S_ISREG(table.stat().st_mode):  # a FIFO would block for ever
            raise DataError(f"{where}: is not a regular file; expected a table. Replace it.")
        with table.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            columns = [column.strip() for column in next(reader, [])]
            if not set(_HEADER) <= set(columns):
                raise DataError(
                    f"{where}: its first line is '{shown(','.join(columns))}'; expected "
                    f"'{','.join(_HEADER)}'. Add this line at the top."
                )
            name_at, label_at = (columns.index(column) for column in _HEADER)
            for row in reader:
                if not row:  # a blank line, often the last one
                    continue
                line = reader.line_num
                if len(row) <= max(name_at, label_at):
                    raise DataError(
                        f"{where} line {line}: has {len(row)} fields; expected "
                        f"{len(columns)}. Complete the line or remove it."
                    )
                yield line, _inside(row[name_at], where, line), normal(row[label_at].strip())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} is not UTF-8; expected a UTF-8 table. "
            "Save it again as UTF-8."
        ) from error
    except csv.Error as error:
        raise DataError(
            f"{where}: is no well-formed table ({error}); expected comma-separated lines. "
            "Save it again as CSV."
        ) from error
    except OSError as error:
        raise ResourceError(
            f"{where}: cannot be read ({error.strerror}); expected a readable table. "
            "Check its permissions."
        ) from error


def _inside(name: str, where: str, line: int) -> str:
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
    if outside or "\0" in name or not path.parts:
        raise DataError(
            f"{where} line {line}: file name '{shown(name)}' leaves the folder or is empty; "
            "expected a relative path inside it. Move the file into the folder."
        )
    return str(path)
