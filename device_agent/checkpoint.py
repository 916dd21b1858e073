"""Checkpoints of a branch in training: safetensors, keyed by what they may be resumed under."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_stl.durable import write_durably


if TYPE_CHECKING:
    from torch import Tensor

_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a stopped run left.

    Attributes:
        tensors: as `Trainer.state` gave them.
        seconds: of training so far.
        threads: the run used.
    """

    tensors: "dict[str, Tensor]"
    seconds: float
    threads: int


def resume_key(**facts: Any) -> str:
    """Return the digest of everything that must be the same for a run to go on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def save(folder: Path, key: str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of the last one.

    Raises:
        ResourceError: the disk does not take it.
    """
    from safetensors.torch import save as pack  # brings torch

    body = pack(
        checkpoint.tensors,
        metadata={
            "key": key,
            "seconds": repr(checkpoint.seconds),
            "threads": str(checkpoint.threads),
        },
    )
    digest = hashlib.sha256(body).digest()
    write_durably(folder / _FILE, digest + body, mode=0o600)


def load(folder: Path, key: str) -> Checkpoint | None:
    """Return the checkpoint of this key, or None: none there, another key's, or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load as unpack

    try:
        data = (folder / _FILE).read_bytes()
    except OSError:
        return None
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        meta = header["__metadata__"]
        if meta["key"] != key:
            return None
        return Checkpoint(unpack(body), float(meta["seconds"]), int(meta["threads"]))
    except (SafetensorError, KeyError, ValueError):
        return None


def discard(folder: Path) -> None:
    """Forget the checkpoint."""
    (folder / _FILE).unlink(missing_ok=True)
