"""The rows of the paper's tables: every one makes its plans, and its images are dealt fairly."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import paper
from benchmarks._paper_rows import ROWS
from benchmarks._subsets import deal_parts
from edge_stl.errors import DataError, UsageError
from edge_stl.fusion import Member, evidence, softmax
from edge_stl.plan import networks


CLASSES = [f"class{i}" for i in range(10)]
CHOSEN = {
    "epochs": None,
    "network": None,
    "transform": None,
    "batch_size": None,
    "learning_rate": None,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("bus", "car"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for i in range(20):
            (tmp_path / "all" / name / f"{i}.png").write_bytes(bytes([i]))
    return tmp_path


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*.png")}


def test_parts_are_disjoint_equal_per_class_and_the_same_every_time(tree: Path) -> None:
    parts: dict[str, int | None] = {"holdout": 8, "select": 10, "train": None}
    dealt = deal_parts(tree / "all", tree / "one", parts)
    again = deal_parts(tree / "all", tree / "two", parts)

    found = {part: names(folder) for part, folder in dealt.items()}
    assert {part: len(own) for part, own in found.items()} == {
        "holdout": 8,
        "select": 10,
        "train": 22,
    }
    assert set.union(*found.values()) == names(tree / "all")
    for own in found.values():
        assert sum(n.startswith("bus") for n in own) * 2 == len(own)
    assert found == {part: names(folder) for part, folder in again.items()}


def test_images_beyond_what_is_asked_for_go_nowhere(tree: Path) -> None:
    dealt = deal_parts(tree / "all", tree / "few", {"holdout": 4, "train": 10})
    assert len(names(dealt["train"])) == 10
    assert not names(dealt["train"]) & names(dealt["holdout"])


@pytest.mark.parametrize("name", ROWS)
def test_every_row_makes_a_plan_and_its_monolith(name: str) -> None:
    row = ROWS[name]
    plan, monolith = paper._plans(row, CLASSES, SimpleNamespace(**CHOSEN))

    count = int(name.rpartition("sub")[2]) if "sub" in name else 4
    assert len(plan.branches) == count
    assert all(len(b.bands) == 1 and b.network == row.network for b in plan.branches)
    (full,) = monolith.branches
    assert (full.bands, full.network) == (("cA0",), row.network)
    size = networks.parameters(
        monolith.layers(full), channels=monolith.input.channels, size=row.resolution
    )
    assert 4 * size < monolith.limits.max_branch_bytes
    assert monolith.training == plan.training
    assert monolith.augment == plan.augment


def test_the_fully_connected_branches_are_a_sixteenth_of_the_monolith() -> None:
    plan, monolith = paper._plans(ROWS["mnist-fc-sub4"], CLASSES, SimpleNamespace(**CHOSEN))

    def weights(owner: object, index: int = 0) -> int:
        branch = owner.branches[index]  # type: ignore[attr-defined]
        layers = owner.layers(branch)  # type: ignore[attr-defined]
        size = owner.band_size(branch)  # type: ignore[attr-defined]
        return sum(
            s.before[0] * s.after[0]
            for s in networks.walk(layers, channels=1, size=size)
            if isinstance(s.layer, networks.Dense) and s.after[0] > len(CLASSES)
        )

    assert weights(monolith) == 8 * 784**2
    assert weights(plan) * 16 == weights(monolith)


def test_fused_accuracy_is_that_of_the_oracle() -> None:
    rng = np.random.default_rng(1)
    members = [Member(f"b{i}", f"x{i}", (5,) * 3, 1.0, 0.5) for i in range(2)]
    each = softmax(rng.normal(size=(200, 2, 3)) * 3).astype(np.float32)
    labels = rng.integers(0, 3, 200)
    merged = SimpleNamespace(
        files=[SimpleNamespace(manifest=SimpleNamespace(member=lambda m=m: m)) for m in members]
    )
    result = SimpleNamespace(branch_probabilities=each, labels=labels)

    votes = 0.7 * evidence(each[:, 0], (0, 1, 2)) + 0.3 * evidence(each[:, 1], (0, 1, 2))
    expected = float((votes.argmax(axis=1) == labels).mean())
    found = paper._accuracy(merged, result, np.array([0.7, 0.3]))  # type: ignore[arg-type]
    assert found == pytest.approx(expected)
    assert found != pytest.approx(float((each[:, 0].argmax(axis=1) == labels).mean()))


def test_an_imagenet_row_without_its_folder_says_what_it_needs(tmp_path: Path) -> None:
    chosen = SimpleNamespace(data=tmp_path, holdout=10, select=False, images=None)
    with pytest.raises(DataError, match=r"expected train/ and test/ with class folders\. Name the"):
        paper._images(ROWS["imagenet-sub4"], chosen, tmp_path / "out")


def test_a_tnn_is_for_grey_images_only() -> None:
    with pytest.raises(UsageError, match="the t-NN reads grey images; use it with a mnist row"):
        paper._add_tnn([], ROWS["cifar10-cnn-sub4"], None, 1)  # type: ignore[arg-type]
