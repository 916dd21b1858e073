"""The numbers of signatures: each higher than all before it, whatever the clock says.

They are kept where the files are made, in a record that survives a power cut. A number is on the
disk before the envelope that bears it: a crash in between may skip one, and never gives one twice.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edge_stl.durable import Record, locked, read_record, write_record
from edge_stl.errors import IntegrityError
from edge_stl.trust._statement import LARGEST_COUNTER, Closed, Digest, parse_strictly


COUNTER_FILE = "counter.record"
"""Its name in a work folder; with a dot, which no branch has in its name."""

_MOST_BYTES = 4_000_000
_Number = Annotated[int, Field(ge=0, le=LARGEST_COUNTER)]


class _Last(Closed):
    sha256: Digest
    counter: _Number


class _Given(Closed):
    format: Literal[1] = 1
    counter: _Number = 0
    last: dict[str, _Last] = Field(default_factory=dict)


class Numbers:
    """The numbers that were given to files, in a record of their own.

    Args:
        path: the record; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, subject: str, sha256: str, *, above: int = 0) -> int:
        """Return the number of a file: a new one, unless it is the last of its subject already.

        Args:
            subject: what the file is the newest of, like ``a1.cam07``.
            sha256: of the file.
            above: the number will be higher than this.

        Raises:
            IntegrityError: the record is damaged, and ``above`` is 0; or the numbers are used up.
            ResourceError: the record cannot be written.
        """
        with locked(self._path):
            given = self._read(above=above)
            last = given.last.get(subject)
            if last is not None and last.sha256 == sha256 and last.counter > above:
                return last.counter
            number = max(given.counter, above) + 1
            if number > LARGEST_COUNTER:
                raise IntegrityError(
                    f"{self._path}: the numbers up to {LARGEST_COUNTER} are used up; expected a "
                    "lower --above. Make a new key with edge-stl keygen, and a new work folder"
                )
            mine = {subject: _Last(sha256=sha256, counter=number)}
            self._write(_Given(counter=number, last=given.last | mine))
            return number

    def check(self) -> None:
        """Say now, and not after hours of training, that the record is damaged.

        Raises:
            IntegrityError: it is.
        """
        self._parsed(read_record(self._path), above=0)

    def _read(self, *, above: int) -> _Given:
        record = read_record(self._path)
        given = self._parsed(record, above=above)
        if record.note is not None and record.body is not None:
            # What was lost had the next number. It is skipped, and its place is taken on the disk
            # first, so that what is lost after this cannot lead back to it.
            given = given.model_copy(update={"counter": min(given.counter + 1, LARGEST_COUNTER)})
            self._write(given)
        return given

    def _parsed(self, record: Record, *, above: int) -> _Given:
        if record.body is not None:
            try:
                return parse_strictly(record.body, _Given, most=_MOST_BYTES)
            except ValueError:
                pass
        elif record.note is None:
            return _Given()
        if above:
            return _Given()
        raise IntegrityError(
            f"{self._path}: damaged, so the numbers given so far are lost; expected the record "
            "that signing keeps. See the highest at the desk with 'edge-stl trust list', and run "
            "edge-stl sign FILE --key KEYFILE --above NUMBER"
        )

    def _write(self, given: _Given) -> None:
        write_record(self._path, json.dumps(given.model_dump(), sort_keys=True).encode())
