"""An ensemble into the slot that does not serve, tested there, and switched to by one rename.

The order is what makes it safe. The copy is on the disk before it is tested; it passed before a
record names it; the record is on the disk before ``current`` is renamed. Whenever the power goes,
both slots hold ensembles that passed, and one of them serves.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_stl.deploy import _self_test
from edge_stl.deploy._self_test import SelfTest
from edge_stl.durable import make_folder, read_once, remove, take_lock, write_durably, write_record
from edge_stl.errors import CheckError, DataError
from edge_stl.gate import MAX_FILE_BYTES
from edge_stl.predict._slots import FILE_NAME, SLOTS, SlotRecord, Slots


SLOWER = 3.0
"""Times the serving ensemble's time that another may take where no budget is named."""

FAST = 5.0
"""Milliseconds below which nothing is called slow: there timing is mostly noise."""


@dataclass(frozen=True)
class SlotStatus:
    """What is in a slot.

    Attributes:
        slot: ``a`` or ``b``.
        state: ``whole``, ``damaged`` or ``empty``.
        record: what was found when it was deployed; None when that is lost, or nothing was.
    """

    slot: str
    state: str
    record: SlotRecord | None


@dataclass(frozen=True)
class Status:
    """What a folder of slots holds.

    Attributes:
        folder: the folder.
        current: the slot that was made to serve; None where that is not written.
        serving: the slot that does, by the digests; None where none is whole.
        slots: both.
    """

    folder: Path
    current: str | None
    serving: str | None
    slots: tuple[SlotStatus, ...]


def deploy(
    source: Path,
    folder: Path,
    *,
    max_milliseconds: float | None = None,
    other_classes: bool = False,
    verified: bytes | None = None,
) -> tuple[str, SelfTest]:
    """Put an ensemble into service, if it is not worse than what serves.

    Args:
        source: the ensemble file; a regular file, no link.
        folder: of the slots; made when missing.
        max_milliseconds: an image may take; by default three times what the serving one took.
        other_classes: whether it may name other classes than the serving one.
        verified: the bytes whose signature was verified; the file is not read again then.

    Returns:
        the slot that serves now, and what the self-test found.

    Raises:
        DataError: the file cannot be read, or is empty.
        CheckError: it fails the self-test, names other classes, or is too slow.
        IntegrityError: its copy is damaged.
        ResourceError: the disk is full or fails, or somebody else deploys here.
        UsageError: onnxruntime is not installed.
    """
    data = verified
    if data is None:
        data = read_once(source, most=MAX_FILE_BYTES, expected="an ensemble").data
    if not data:
        raise DataError(f"{source}: is empty; expected an ensemble. Copy it again")
    make_folder(folder, option="folder for the slots")
    with _held(folder):
        slots = Slots(folder)
        serving = slots.serving()
        slot = _other(serving)
        digest = hashlib.sha256(data).hexdigest()
        copy = folder / f"{slot}-{digest[:12]}.onnx"
        _clean(slots)
        try:
            write_durably(copy, data)
            found = _self_test.self_test(copy, digest, name=str(source))
            if serving is not None:
                _need_classes(source, found, slots, serving, other_classes=other_classes)
            _need_speed(source, found, slots, serving, max_milliseconds)
            record = SlotRecord(
                file=copy.name,
                sha256=digest,
                bytes=len(data),
                classes=found.classes,
                milliseconds=found.milliseconds,
                serial=1 + max((r.serial for s in SLOTS if (r := slots.record(s))), default=0),
            )
            write_record(slots.record_path(slot), json.dumps(asdict(record)).encode(), mode=0o644)
        except BaseException:
            _clean(slots)
            raise
        _point_to(slots, slot)
        _clean(slots)
    return slot, found


def go_back(folder: Path) -> str:
    """Make the other slot serve; its file is checked by its digest, nothing else is needed.

    Returns:
        the slot that serves now.

    Raises:
        DataError: nothing was deployed here.
        IntegrityError: the other slot is empty or damaged.
        ResourceError: the disk is full or fails, or somebody else deploys here.
    """
    _need_slots(folder)
    with _held(folder):
        slots = Slots(folder)
        slot = _other(slots.current() or slots.serving())
        slots.bytes_of(slot)
        _point_to(slots, slot)
    return slot


def status(folder: Path) -> Status:
    """Return what a folder of slots holds; every file is read to its end.

    Raises:
        DataError: nothing was deployed here.
    """
    _need_slots(folder)
    slots = Slots(folder)
    found = []
    for slot in SLOTS:
        record = slots.record(slot)
        whole = "whole" if slots.is_whole(slot) else "damaged"
        there = record is not None or slots.record_path(slot).exists()
        found.append(SlotStatus(slot, whole if there else "empty", record))
    return Status(folder, slots.current(), slots.serving(), tuple(found))


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the slots: one deployment at a time."""
    descriptor = take_lock(
        folder / "lock",
        busy=f"{folder}: somebody else deploys here now; expected one at a time. Wait for it",
        instead="choose another folder for the slots",
    )
    try:
        yield
    finally:
        os.close(descriptor)


def _other(slot: str | None) -> str:
    return "b" if slot == "a" else "a"


def _point_to(slots: Slots, slot: str) -> None:
    write_durably(slots.pointer, f"{slot}\n".encode())


def _need_slots(folder: Path) -> None:
    if not any(Slots(folder).record_path(slot).exists() for slot in SLOTS):
        raise DataError(
            f"{folder}: no ensemble was deployed here; expected a folder that 'edge-stl deploy' "
            "filled. Check the path"
        )


def _need_classes(
    source: Path, found: SelfTest, slots: Slots, serving: str, *, other_classes: bool
) -> None:
    running = slots.record(serving)
    if running is None or other_classes or found.classes == running.classes:
        return
    raise CheckError(
        f"{source}: answers {len(found.classes)} classes ({', '.join(found.classes)}), slot "
        f"{serving} serves {len(running.classes)} ({', '.join(running.classes)}); expected the "
        "same names in the same order. If what reads the answers knows them: --allow-other-classes"
    )


def _need_speed(
    source: Path, found: SelfTest, slots: Slots, serving: str | None, budget: float | None
) -> None:
    took = f"{source}: takes {found.milliseconds:.1f} ms an image on this machine"
    if budget is not None:
        if found.milliseconds > budget:
            raise CheckError(
                f"{took}; expected at most the {budget:g} ms of --max-ms. Merge a smaller one, or "
                "allow more"
            )
        return
    running = None if serving is None else slots.record(serving)
    if running is None or found.milliseconds <= max(FAST, SLOWER * running.milliseconds):
        return
    raise CheckError(
        f"{took}, slot {serving} took {running.milliseconds:.1f} ms; expected at most {SLOWER:g} "
        "times that. Allow it with --max-ms"
    )


def _clean(slots: Slots) -> None:
    """Remove copies that no record names: of refused files, of what was replaced, of a crash."""
    named = {record.file for slot in SLOTS if (record := slots.record(slot)) is not None}
    with suppress(OSError):  # they cost space, nothing else
        for path in slots.folder.iterdir():
            if FILE_NAME.fullmatch(path.name) and path.name not in named:
                remove(path)
