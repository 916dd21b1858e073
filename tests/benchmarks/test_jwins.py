"""What `benchmarks.jwins` is made of."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import _cotrain, jwins
from edge_stl.errors import CheckError


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> _cotrain.ImageSet:
    def tiny(_channels: int, _side: int, _classes: int, *, seed: int) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.nn.Sequential(
                torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 10)
            )

    monkeypatch.setattr(_cotrain, "lenet", tiny)
    monkeypatch.setattr(jwins, "NODES", 4)
    targets = torch.arange(640) % 10
    noise = torch.randn(640, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    part = _cotrain.Pictures(noise + targets.view(-1, 1, 1, 1) / 5, targets)
    return _cotrain.ImageSet(part, part, part, 10)


def _chosen() -> argparse.Namespace:
    return argparse.Namespace(rounds=4, test=50, validation=50, json=True, seeds=2)


def test_a_row_is_tuned_once_and_measured_for_every_seed(images: _cotrain.ImageSet):
    rows: dict[str, dict[str, object]] = {}
    for row in (jwins.ROWS[0], jwins.ROWS[4]):
        found = rows.setdefault(row.name, {})
        jwins._measure(row, images, 0, _chosen(), found)
        choice, tried = found["choice"], found["tried"]
        jwins._measure(row, images, 1, _chosen(), found)

        assert (found["choice"], found["tried"]) == (choice, tried)
        assert len(tried) >= len(jwins.RATES) * len(row.gammas) + 2 + 2
        whole = [t for t in tried if t["rounds"] == 4]
        best = max(whole, key=lambda t: t["accuracy"])
        assert choice == {"rate": best["rate"], "gamma": best["gamma"]}
        assert set(found["seeds"]) == {"0", "1"}
        assert found["seeds"]["0"] != found["seeds"]["1"]
    text = "\n".join(jwins.table(rows, _chosen()))

    assert "| full sharing |" in text
    assert "| 100.0 |" in text
    assert "2 seeds, 4 rounds of 3 steps of 8 images" in text


def test_what_lies_beyond_the_edge_of_the_grid_is_tried():
    assert jwins._beyond(jwins.Choice(0.01)) == []
    assert jwins._beyond(jwins.Choice(0.03)) == [jwins.Choice(0.1)]
    assert jwins._beyond(jwins.Choice(0.003, 0.8)) == [
        jwins.Choice(0.001, 0.8),
        jwins.Choice(0.003, 1.0),
    ]


def test_a_run_that_was_taken_further_is_the_run_in_one_go(images: _cotrain.ImageSet):
    row, choice = jwins.ROWS[1], jwins.Choice(0.03)
    one, two = (jwins.Fleet(row, choice, images, seed=1, rounds=4) for _ in range(2))
    one.advance(4)
    two.advance(1)
    two.advance(4)

    assert jwins.measured(one, images.test) == jwins.measured(two, images.test)


def test_test_images_are_of_all_classes(images: _cotrain.ImageSet, monkeypatch: pytest.MonkeyPatch):
    """Image sets lie in the order of their classes."""
    order = torch.argsort(images.test.targets, stable=True)
    ordered = replace(images, test=images.test.take(order.numpy()))
    seen: list[torch.Tensor] = []

    def look(_fleet: jwins.Fleet, test: _cotrain.Pictures) -> dict[str, object]:
        seen.append(test.targets)
        return {}

    monkeypatch.setattr(jwins, "measured", look)
    chosen = _chosen()
    chosen.rounds = 1
    jwins._measure(jwins.ROWS[0], ordered, 1, chosen, {"choice": {"rate": 0.1}})

    assert len(seen[0]) == 50
    assert len(seen[0].unique()) == 10


def test_a_grid_where_everything_diverges_is_refused(
    images: _cotrain.ImageSet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jwins, "RATES", (1e30, 1e35))

    with pytest.raises(CheckError, match="every setting of the grid diverged"):
        jwins.tune(jwins.ROWS[0], images, rounds=4, validation=images.validation)


def gap_bits(share: float) -> float:
    """Return the mean length of an Elias gamma code of the gap between two indices, in bits."""
    if share == 1:
        return 0.0  # nothing is listed where all is sent
    gaps = np.arange(1, 5000)
    return float(np.sum(share * (1 - share) ** (gaps - 1) * (2 * np.floor(np.log2(gaps)) + 1)))


@pytest.mark.parametrize(
    ("row", "least", "most"),
    [
        (1, 0.355, 0.376),
        (2, 0.2, 0.212),
        (3, 0.19, 0.212),
        (4, 0.2, 0.212),
        (5, 0.2, 0.212),
        (6, 0.2, 0.212),
        (7, 0.1, 0.118),
        (8, 0.1, 0.118),
        (9, 0.1, 0.118),
    ],
)
def test_rows_of_one_budget_cost_the_same_bytes(row: int, least: float, most: float):
    """By the formulas: random supports, without headers."""
    settings = jwins.ROWS[row].settings
    if isinstance(settings, jwins.JwinsSettings):
        count = len(settings.shares)
        chances = settings.probabilities or (1 / count,) * count
        cost = sum(
            c * s * (1 + gap_bits(s) / 32) for s, c in zip(settings.shares, chances, strict=True)
        )
    elif isinstance(settings, jwins.ChocoSettings):
        cost = settings.share * (1 + gap_bits(settings.share) / 32)
    else:
        assert isinstance(settings, jwins.RandomSettings)
        cost = settings.share

    assert least < cost < most
