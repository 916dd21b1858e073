"""The hook under DistributedDataParallel over gloo, with ranks that are processes."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_stl.cotrain import Ledger, LocalSettings, ModuleProblem, Replicas
from edge_stl.cotrain.pca_hook import PCAState
from edge_stl.errors import UsageError
from edge_stl.testing import assert_parity
from tests.cotrain import pca_rank


ROOT = Path(__file__).parents[2]
FORMS, FULL, STEPS = pca_rank.FORMS, pca_rank.FULL, pca_rank.STEPS

Found = Mapping[str, Any]
"""What a rank found."""


def _run_ranks(count: int, folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.cotrain.pca_rank"]
    running = [
        subprocess.Popen(
            [*command, str(k), str(count), str(folder)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(count)
    ]
    try:
        said = [process.communicate(timeout=400)[1] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert [process.returncode for process in running] == [0] * count, "\n".join(said)


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """Return what each of 2 or 4 ranks found, by rank; the workers of a run share it."""
    count, shared = request.param, tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / f"pca-ranks-{count}"
    with (shared / f"pca-ranks-{count}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            _run_ranks(count, folder)
            (folder / "done").touch()
    found = []
    for k in range(count):
        with np.load(folder / f"rank{k}.npz") as read:
            found.append(dict(read))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_rank_is_plain_averaging(ranks: list[Found], name: str):
    assert_parity(ranks[-1][name], ranks[0]["plain"], kind="branches")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORMS, *FULL])
def test_all_ranks_hold_the_same_weights_and_bases_over_several_buckets(
    ranks: list[Found], name: str
):
    assert ranks[0][f"{name}: gap"] == 0.0
    assert ranks[0][f"{name}: basis gap"] == 0.0
    assert ranks[0][f"{name}: buckets"] > 1
    assert ranks[0][f"{name}: steps"] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_the_bytes_counted_are_those_that_torch_was_given(ranks: list[Found], name: str):
    for found in ranks:
        phases = ("warm_up", "refresh", "compressed")
        counted = sum(int(found[f"{name}: {phase} payload"]) for phase in phases)
        assert counted == found[f"{name}: spied"]
        assert sum(int(found[f"{name}: {phase} steps"]) for phase in phases) == STEPS
    whole = 4 * len(ranks[0]["plain"])
    assert ranks[0][f"{name}: warm_up payload"] == FORMS[name].start * whole
    steps = int(ranks[0][f"{name}: compressed steps"])
    assert ranks[0][f"{name}: compressed payload"] < 0.7 * steps * whole


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORMS, "plain"])
def test_the_run_in_one_process_is_that_of_the_ranks(ranks: list[Found], name: str):
    local = LocalSettings(rate=pca_rank.RATE, rounds=STEPS, momentum=pca_rank.MOMENTUM)
    network = pca_rank.module()
    problems = [
        ModuleProblem(network, lambda step, k=k: pca_rank.batch(k, step)) for k in range(len(ranks))
    ]
    settings = FORMS.get(name) or pca_rank.PCASettings(form="none")
    replicas, ledger = Replicas(problems, local, settings), Ledger()
    start = replicas.vector.numpy().copy()
    replicas.run(rounds=STEPS, ledger=ledger)

    assert np.abs(ranks[0][name] - start).max() > 0.03
    assert_parity(replicas.vector, ranks[0][name], kind="float32")
    if name != "plain":
        payload = sum(t.payload for t in replicas.compressors[0].traffic.values())
        assert payload == ranks[0][f"{name}: spied"]


@pytest.mark.slow
def test_buckets_make_no_difference(ranks: list[Found]):
    if len(ranks) != pca_rank.PAIR:
        return  # two ranks show it
    assert ranks[0]["one bucket"] == 1
    assert_parity(ranks[0]["power in one bucket"], ranks[0]["power"], kind="float32")


@pytest.mark.slow
def test_a_backward_pass_that_is_not_synced_is_no_step(ranks: list[Found]):
    if len(ranks) != pca_rank.PAIR:
        return
    assert ranks[0]["unsynced steps"] == STEPS
    assert_parity(ranks[0]["full unsynced"], ranks[0]["plain unsynced"], kind="branches")


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_of_the_state(ranks: list[Found]):
    if len(ranks) != pca_rank.PAIR:
        return
    assert all(np.array_equal(found["power resumed"], found["power"]) for found in ranks)


def test_a_parameter_of_another_network_is_refused():
    state = PCAState(pca_rank.module())

    with pytest.raises(UsageError, match=r"shape \(2, 3\): not one of the network"):
        state.name_of(torch.nn.Parameter(torch.zeros(2, 3)))


def test_a_state_of_another_network_is_refused():
    other = PCAState(torch.nn.Linear(3, 2)).state_dict()

    with pytest.raises(UsageError, match="does not fit the network"):
        PCAState(pca_rank.module()).load_state_dict(other)


def test_frozen_parameters_are_not_in_the_state():
    network = pca_rank.module()
    next(network.parameters()).requires_grad_(requires_grad=False)

    assert "rank.0.weight" not in PCAState(network).state_dict()
    assert "rank.2.weight" in PCAState(network).state_dict()
