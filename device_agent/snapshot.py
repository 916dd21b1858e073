"""A set of images as somebody saw it, kept on the disk: what to train on, and what was trained on.

A camera goes on writing while a box trains. Whoever wants a stopped run to go on with the same
images (`run_job` resumes under the same list alone), and no file that is still being written, names
the images beforehand.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_stl.durable import read_record, write_record
from edge_stl.errors import ResourceError
from edge_stl.images import Identities


_FORMAT = 1
_LITTLE_ENDIAN = "<u8"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Some images, and what for.

    Attributes:
        images: (N,) uint64, sorted: `edge_stl.images.identities`.
        asked: what they were to be trained under: the digest of the plan, options.
    """

    images: Identities
    asked: dict[str, str] = field(default_factory=dict)

    def same(self, other: "Snapshot | None") -> bool:
        """Return whether another one names the same images for the same purpose."""
        return (
            other is not None
            and self.asked == other.asked
            and np.array_equal(self.images, other.images)
        )


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot as a record.

    Raises:
        ResourceError: the disk does not take it.
    """
    head = {"format": _FORMAT, "asked": snapshot.asked, "images": len(snapshot.images)}
    numbers = snapshot.images.astype(_LITTLE_ENDIAN, copy=False).tobytes()
    write_record(path, json.dumps(head, sort_keys=True).encode() + b"\n" + numbers)


def read_snapshot(path: Path) -> Snapshot | None:
    """Return a snapshot, or None: not there, damaged, or of another version.

    Raises:
        ResourceError: a folder is in its place.
    """
    body = read_record(path).body
    if body is None:
        return None
    line, _, numbers = body.partition(b"\n")
    try:
        head = json.loads(line)
        images = np.frombuffer(numbers, _LITTLE_ENDIAN).astype(np.uint64)
        if head["format"] != _FORMAT or head["images"] != len(images):
            return None
        return Snapshot(images, {str(k): str(v) for k, v in head["asked"].items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def need_snapshot(path: Path) -> Snapshot:
    """Return a snapshot that must be there.

    Raises:
        ResourceError: it is not, or it is damaged.
    """
    snapshot = read_snapshot(path)
    if snapshot is None:
        raise ResourceError(
            f"{path}: is missing or damaged; expected the list of images that agent watch wrote. "
            "Remove it; the service writes another one"
        )
    return snapshot
