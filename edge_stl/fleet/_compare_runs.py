"""What a comparison has done so far, kept on the disk, so that a stopped one goes on there.

``runs.json`` has a row for every training that is over, and one for every model that was asked the
test images. The models of trainings lie beside it until one of them is chosen and asked; a model
that is gone or damaged is trained again, which gives the same one.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save as pack
from torch import Tensor

from edge_stl.durable import discard_record, read_record, write_durably, write_record
from edge_stl.errors import UsageError


_FORMAT = 2  # of the rows and of what they are runs of: another one is not gone on with
_FILE = "runs.json"


@dataclass
class Runs:
    """The finished runs of a folder.

    Attributes:
        folder: where they are kept.
        facts: what all of them depend on.
        trained: a row per training, by `key`.
        asked: a row per chosen model, by `key`.
    """

    folder: Path
    facts: dict[str, Any]
    trained: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take over what an earlier, stopped comparison left.

        Raises:
            UsageError: it was another comparison, or cannot be read.
        """
        self.facts = {"format": _FORMAT, **self.facts}
        path = self.folder / _FILE
        if not path.is_file():
            return
        try:
            document = json.loads(path.read_bytes())
            facts, trained = document["facts"], document.get("trained", {})
            asked = document.get("asked", {})
            different = sorted(k for k in self.facts if facts.get(k) != self.facts[k])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f"{path}: cannot be read as the runs of a comparison. Delete it, or choose "
                "another -o"
            ) from None
        if different:
            raise UsageError(
                f"{path}: of a comparison with other {', '.join(different)}; expected the "
                "same. Choose another -o, or delete it"
            )
        self.trained, self.asked = trained, asked

    def keep(self, rows: dict[str, dict[str, Any]], key: str, row: dict[str, Any]) -> None:
        """Keep a row among ``trained`` or ``asked``."""
        rows[key] = row
        document = {"facts": self.facts, "trained": self.trained, "asked": self.asked}
        write_durably(self.folder / _FILE, json.dumps(document, indent=1).encode())

    # -- models ---------------------------------------------------------------------------------

    def keep_model(self, key: str, vectors: tuple[Tensor, ...]) -> None:
        """Keep the models ``(P,)`` of a training."""
        write_record(self._model(key), pack({"vectors": torch.stack(vectors)}))

    def model(self, key: str) -> tuple[Tensor, ...] | None:
        """Return the models ``(P,)`` of a training; None where they are not kept."""
        body = read_record(self._model(key)).body
        try:
            return None if body is None else tuple(load(body)["vectors"])
        except (KeyError, SafetensorError):
            return None

    def forget_models(self, name: str) -> None:
        """Remove the models of all trainings of a method."""
        for key in self.trained:
            if key.startswith(f"{name} "):
                discard_record(self._model(key))

    def _model(self, key: str) -> Path:
        return self.folder / f"{key.replace(' ', '-')}.model"
