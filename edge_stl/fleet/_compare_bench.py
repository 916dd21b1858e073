"""The runs of a comparison: a training of a method, and what its model does with test images.

Settings are tried without a look at test images. Only the model that was chosen is asked those,
once, and only of it branch files are built.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edge_stl.fleet._compare_runs import Runs
from edge_stl.fleet._contestants import CONTESTANTS, SAME_RUN, Chosen, Effort
from edge_stl.fleet._study import Study


def training_of(name: str) -> str:
    """Return the method whose trainings a method shares, itself where it has its own."""
    return SAME_RUN.get(name, name)


def text_of(chosen: Chosen) -> str:
    """Return settings as a person and the key of a run name them."""
    return " ".join(f"{key} {value:g}" for key, value in chosen.items())


@dataclass(frozen=True)
class Bench:
    """What the runs of all methods have in common.

    Attributes:
        studies: one per seed.
        effort: of every method.
        runs: those that are done.
        step: called with the name of a run before it begins.
    """

    studies: Sequence[Study]
    effort: Effort
    runs: Runs
    step: Callable[[str], None]

    def tried(self, name: str, seed: int, chosen: Chosen) -> dict[str, Any]:
        """Return the row of a training; its model is kept, and nobody asks it test images."""
        key = f"{training_of(name)} {seed} {text_of(chosen)}"
        if key not in self.runs.trained:
            self._train(name, seed, chosen)
        row = self.runs.trained[key]
        return row | {"validation": row["alone"]} if name == "alone" else row

    def asked(self, name: str, seed: int, chosen: Chosen) -> dict[str, Any]:
        """Return accuracy on the test images and bytes of files of a training, asked once."""
        key, training = (f"{n} {seed} {text_of(chosen)}" for n in (name, training_of(name)))
        if key not in self.runs.asked:
            vectors = self.runs.model(training) or self._train(name, seed, chosen)
            accuracy, size = self._ask(name, seed, vectors)
            self.runs.keep(self.runs.asked, key, {"accuracy": accuracy, "bytes_files": size})
        return self.runs.asked[key]

    def _train(self, name: str, seed: int, chosen: Chosen) -> tuple[Tensor, ...]:
        study, key = self.studies[seed], f"{training_of(name)} {seed} {text_of(chosen)}"
        outcome = CONTESTANTS[name].run(study, self.effort, chosen)
        row = {
            "bytes_training": outcome.ledger.total.total,
            "ledger": {k: v for k, v in outcome.ledger.to_json().items() if k == "total"},
            "gradients": outcome.gradients,
            "seconds": round(outcome.seconds, 3),
        }
        if outcome.apart:
            row["validation"], row["alone"] = study.apart(outcome.vectors, study.validation)
        else:
            row["validation"] = study.one_branch(outcome.vectors[0], study.validation)
        self.runs.keep_model(key, outcome.vectors)
        if key not in self.runs.trained:  # else its model was lost, and its seconds are the first
            self.runs.keep(self.runs.trained, key, row)
        return outcome.vectors

    def _ask(self, name: str, seed: int, vectors: Sequence[Tensor]) -> tuple[float, int]:
        study, moved = self.studies[seed], CONTESTANTS[name].moved
        if moved == "files":  # real files, merged, in onnxruntime
            return study.real_ensemble(vectors, self.runs.folder / "branches" / f"seed{seed}")
        if moved == "nothing":
            return study.apart(vectors, study.test)[1], 0
        accuracy = study.one_branch(vectors[0], study.test)
        if moved == "images":
            return accuracy, _image_bytes(study)
        return accuracy, len(study.branch_file(vectors[0], 0)[1])


def _image_bytes(study: Study) -> int:
    """Return what sending all training images would cost, by the mean size of a file."""
    mean = study.archive.image_bytes / len(study.archive.labels)
    return round(mean * sum(len(hand) for hand in study.hands))
