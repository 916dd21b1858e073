"""The non-separable comparison learns, by the same seed the same."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks._tnn import train_tnn


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Make pictures that are bright above or bright below."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 128), ("test", 20)):
        for label, name in enumerate(("above", "below")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (8, 8))
                pixels[4 * label : 4 * label + 4] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path


def test_a_t_nn_learns_an_easy_task_and_repeats_itself(halves: Path) -> None:
    def run() -> tuple[float, int]:
        found = train_tnn(
            halves / "train", halves / "test", ("above", "below"), size=8, epochs=15, seed=1
        )
        return found.accuracy, found.parameters

    accuracy, parameters = run()
    assert accuracy > 0.9
    # four square blocks and a readout: tubes of 8, each with weights and biases
    assert parameters == 8 * (4 * (8 * 8 + 8) + 2 * 8 + 2)
    assert run() == (accuracy, parameters)
