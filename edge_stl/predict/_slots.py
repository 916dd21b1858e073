"""Two slots for ensembles on a box: one serves, the other is what one goes back to.

::

    <slots>/a.record, b.record             of each slot: its file, with its digest
    <slots>/a-<sha256>.onnx, b-<sha256>.onnx
    <slots>/current                        the slot that serves, one letter

`edge_stl.deploy` writes them; here they are read, by any number of processes, without a lock. No
file that a record names is ever written to, and one rename of ``current`` makes a slot serve.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from edge_stl.durable import read_once, read_record
from edge_stl.errors import CheckError, DataError, IntegrityError, ResourceError
from edge_stl.predict._ensemble import Ensemble
from edge_stl.predict._vector import need_answer


SLOTS = ("a", "b")
FILE_NAME = re.compile(r"[ab]-[0-9a-f]{12}\.onnx")
_WHAT = "a file that 'edge-stl deploy' wrote"
_TRIES = 3


@dataclass(frozen=True)
class SlotRecord:
    """What was found out about an ensemble when it was deployed.

    Attributes:
        file: its name in the folder.
        sha256: of the file.
        bytes: of the file.
        classes: class names in output order.
        milliseconds: an image took, with one thread, on this machine.
        serial: 1 for the first ensemble deployed here, and so on.
    """

    file: str
    sha256: str
    bytes: int
    classes: tuple[str, ...]
    milliseconds: float
    serial: int


class Slots:
    """The slots of a folder.

    Args:
        folder: where `edge-stl deploy` put an ensemble.

    Attributes:
        note: a sentence for a person where the slot that should serve does not, or its name was
            lost; None otherwise. Set by `open`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.note: str | None = None
        self._opened: tuple[str | None, str | None] = (None, None)

    def record_path(self, slot: str) -> Path:
        """Return where the record of a slot lies."""
        return self.folder / f"{slot}.record"

    @property
    def pointer(self) -> Path:
        """Where the name of the slot that serves is written."""
        return self.folder / "current"

    def record(self, slot: str) -> SlotRecord | None:
        """Return the record of a slot; None where nothing was deployed or it is damaged."""
        try:
            body = read_record(self.record_path(slot)).body
            return None if body is None else _parse(body)
        except (ResourceError, KeyError, RecursionError, TypeError, ValueError):
            return None

    def current(self) -> str | None:
        """Return the slot that was made to serve; None where that is not written, or damaged."""
        try:
            text = read_once(self.pointer, most=8, expected=_WHAT).data.decode()
        except (DataError, UnicodeDecodeError):
            return None
        return text[0] if text in {f"{slot}\n" for slot in SLOTS} else None

    def order(self) -> list[str]:
        """Return the slots that hold something, the one that should serve first.

        Where its name was lost, the one deployed last: it had passed its test.
        """
        serials = {slot: r.serial for slot in SLOTS if (r := self.record(slot)) is not None}
        current = self.current()
        if current is not None:
            serials.setdefault(current, 0)  # its record is lost, which is to be told
        return sorted(serials, key=lambda slot: (slot != current, -serials[slot]))

    def bytes_of(self, slot: str) -> bytes:
        """Return the ensemble of a slot, proved by the digest of its record.

        Raises:
            IntegrityError: it is missing, damaged, or not what the record says.
        """
        record = self.record(slot)
        if record is None:
            where = self.record_path(slot)
            what = "damaged" if os.path.lexists(where) else "there is none"
            raise IntegrityError(f"{where}: {what}; expected the record of a slot. Deploy again")
        path = self.folder / record.file
        try:
            data = read_once(path, most=record.bytes, expected=_WHAT).data
        except DataError as error:
            raise IntegrityError(str(error)) from None
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise IntegrityError(
                f"{path}: damaged, its sha256 is not the recorded {record.sha256[:12]}. Deploy it "
                "again"
            )
        return data

    def is_whole(self, slot: str) -> bool:
        """Say whether a slot holds the ensemble that was deployed to it."""
        try:
            self.bytes_of(slot)
        except IntegrityError:
            return False
        return True

    def serving(self) -> str | None:
        """Return the slot that `open` would take by the digests; None where none is whole."""
        return next((slot for slot in self.order() if self.is_whole(slot)), None)

    def open(self, *, threads: int = 0, threshold: float | None = None) -> Ensemble:
        """Return the ensemble that serves.

        The current one; where its file is damaged, does not load, or does not answer its own test
        vector, the one of the other slot, and `note` says why.

        Args:
            threads: as `Ensemble`.
            threshold: as `Ensemble`.

        Raises:
            DataError: nothing was deployed here.
            IntegrityError: no slot holds an ensemble that works.
            UsageError: onnxruntime is not installed, or the threshold is not one of a cascade.
        """
        problems: list[str] = []
        for _ in range(_TRIES):
            seen = self._state()
            problems = []
            for slot in self.order():
                try:
                    model = Ensemble(self.bytes_of(slot), threads=threads, threshold=threshold)
                    need_answer(model)
                except IntegrityError as error:
                    problems.append(str(error))
                except (CheckError, DataError) as error:
                    said = str(error).removeprefix("ensemble: ")
                    problems.append(f"slot {slot} of {self.folder}: {said}")
                else:
                    self._opened = seen
                    self.note = self._note(slot, problems)
                    return model
            if self._state() == seen:  # else somebody deployed meanwhile: look again
                break
        if not problems:
            raise DataError(
                f"{self.folder}: no ensemble was deployed here; expected a folder that 'edge-stl "
                "deploy' filled. Deploy one"
            )
        raise IntegrityError(f"{self.folder}: no slot works: {'; '.join(problems)}")

    def changed(self) -> bool:
        """Say whether another ensemble was made to serve since `open`; cheap, two small files."""
        return self._state() != self._opened

    def _state(self) -> tuple[str | None, str | None]:
        current = self.current()
        record = None if current is None else self.record(current)
        return current, None if record is None else record.sha256

    def _note(self, slot: str, problems: list[str]) -> str | None:
        if problems:
            return f"{'; '.join(problems)}. Slot {slot} serves instead"
        if self.current() is None:
            return (
                f"{self.pointer}: missing or damaged; slot {slot}, deployed last, serves. Write it "
                "again with 'edge-stl deploy'"
            )
        return None


def _parse(body: bytes) -> SlotRecord:
    """Return a record.

    Raises:
        KeyError: a part is missing.
        TypeError: it is no table.
        ValueError: it is no JSON, or a part cannot be.
    """
    document = json.loads(body)
    name = str(document["file"])
    if not FILE_NAME.fullmatch(name):
        raise ValueError(f"file {name}")
    return SlotRecord(
        file=name,
        sha256=str(document["sha256"]),
        bytes=int(document["bytes"]),
        classes=tuple(map(str, document["classes"])),
        milliseconds=float(document["milliseconds"]),
        serial=int(document["serial"]),
    )
