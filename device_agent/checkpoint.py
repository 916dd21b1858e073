"""Checkpoints of a branch in training: safetensors, keyed by what they may be resumed under."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_stl.durable import discard_record, read_record, remove_leftovers, write_record


if TYPE_CHECKING:
    from torch import Tensor

_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a stopped run left.

    Attributes:
        tensors: as `Trainer.state` gave them.
        seconds: of training so far.
        surroundings: versions, threads and machine that made it, by name.
    """

    tensors: "dict[str, Tensor]"
    seconds: float
    surroundings: dict[str, str]


def resume_key(**facts: Any) -> str:
    """Return the digest of everything that must be the same for a run to go on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def save(folder: Path, key: str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the last one is kept beside it.

    Raises:
        ResourceError: the disk does not take it.
    """
    from safetensors.torch import save as pack  # brings torch

    body = pack(
        checkpoint.tensors,
        metadata={
            "key": key,
            "seconds": repr(checkpoint.seconds),
            "surroundings": json.dumps(checkpoint.surroundings, sort_keys=True),
        },
    )
    write_record(folder / _FILE, body)


def load(folder: Path, key: str, *, told: Callable[[str], object]) -> Checkpoint | None:
    """Return the newest whole checkpoint of this key, or None: none there, or another key's.

    Args:
        folder: the branch's.
        key: of this run.
        told: called with a sentence where the newest one is damaged.

    Raises:
        ResourceError: a folder is in its place, or the disk does not take the newest one anew.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as unpack

    with suppress(OSError):
        remove_leftovers(folder / _FILE)  # a branch that is finished already is not written again
    record = read_record(folder / _FILE)
    if record.note is not None:
        told(record.note)
    body = record.body
    if body is None:
        return None
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        meta = header["__metadata__"]
        if meta["key"] != key:
            return None
        surroundings = {str(k): str(v) for k, v in json.loads(meta["surroundings"]).items()}
        left = Checkpoint(unpack(body), float(meta["seconds"]), surroundings)
    except (SafetensorError, AttributeError, KeyError, ValueError, TypeError):
        return None
    if record.note is not None:
        # Two generations again: a finished branch is not saved once more, and would be told of at
        # every run.
        write_record(folder / _FILE, body)
    return left


def discard(folder: Path) -> None:
    """Forget the checkpoint.

    Raises:
        ResourceError: it cannot be removed.
    """
    discard_record(folder / _FILE)
