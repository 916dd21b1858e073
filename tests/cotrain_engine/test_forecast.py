"""The bytes of a run, told beforehand: those that the run then sends."""

from pathlib import Path

import pytest

from device_agent.cotrain._forecast import forecast, forecast_document
from device_agent.cotrain._group import Run, read_group
from device_agent.cotrain._methods import NODES, STARS, make_node
from edge_stl.cotrain import Bytes, Ledger, ModuleProblem, Seat, run_together
from edge_stl.errors import UsageError
from edge_stl.plan import Plan, new_plan
from tests.cotrain.toy import toy_module, toy_points


ROUNDS, CLASSES = 40, 4
TEXT = f"""
format = 1
name = "gate"
branch = "ca1"
boxes = ["cam1", "cam2", "cam3", "cam4"]
rounds = {ROUNDS}
steps = 2
[ngc]
alpha = 0.0
"""


def _plan(network: str = "cnn-s-gn") -> Plan:
    return new_plan(
        name="p",
        classes=tuple("abcd"),
        resolution=16,
        channels=1,
        network=network,
        transform="haar",
        levels=1,
        branches="single",
    )


def _read(tmp_path: Path, method: str, text: str = TEXT, network: str = "cnn-s-gn") -> Run:
    path = tmp_path / "group.toml"
    path.write_text(text)
    return read_group(path, method, _plan(network), {})


def _problem(node: int) -> ModuleProblem:
    return ModuleProblem(toy_module(hidden=120), lambda step: toy_points(4, seed=99 * node + step))


def _sent(run: Run) -> list[Bytes]:
    """Return what the nodes of a run send in one process, without the end."""
    nodes = [
        make_node(run.method, Seat(k, row), _problem(k), run.local, run.settings)
        for k, row in enumerate(run.graph.neighbours)
    ]
    ledger = Ledger()
    run_together(nodes, rounds=run.group.rounds, ledger=ledger)
    return [ledger.node(k) for k in range(len(nodes))]


@pytest.mark.parametrize("method", NODES)
def test_a_gossip_run_sends_what_was_told(tmp_path: Path, method: str):
    run, shapes = _read(tmp_path, method), _problem(0).shapes
    size = sum(shape.numel() for shape in shapes)
    sent, told = _sent(run), forecast(run, shapes, classes=CLASSES)
    for rank, (real, said) in enumerate(zip(sent, told, strict=True)):
        # the end: the first box sends the mean to each other and what it says of the file, which
        # send their models and scores
        messages = 6 if rank == 0 else 2
        models = 3 if rank == 0 else 1
        scores = 0 if rank == 0 else 8 * (121 * CLASSES + 121 + CLASSES + 1)
        assert said.messages == real.messages + messages
        rounds = said.values - 4 * size * models - scores
        # JWINS draws how much, random sampling draws what; all others send to the byte
        allowed = {"jwins": 0.3, "random": 0.02}.get(method, 0)
        assert abs(rounds - real.values) <= allowed * real.values
        assert abs(said.indices - real.indices) <= 0.35 * real.indices


def test_the_forecast_of_jwins_is_the_mean_of_what_it_draws(tmp_path: Path):
    text = TEXT + "[jwins]\nshares = [0.1, 1.0]\nprobabilities = [0.75, 0.25]\n"
    run, shapes = _read(tmp_path, "jwins", text), _problem(0).shapes
    ends = [_read(tmp_path, "jwins", text.replace(f"= {ROUNDS}", f"= {n}")) for n in (1, 2)]
    one, two = (forecast(r, shapes, classes=CLASSES)[1] for r in ends)
    size = sum(shape.numel() for shape in shapes)

    assert run.group.rounds == ROUNDS
    assert (two.values - one.values) / (2 * 4 * size) == pytest.approx(0.325, rel=0.03)


@pytest.mark.parametrize("method", [*NODES, *STARS])
def test_every_method_has_a_forecast_for_every_box(tmp_path: Path, method: str):
    document = forecast_document(_read(tmp_path, method), _plan())

    assert [row["box"] for row in document["boxes"]] == ["cam1", "cam2", "cam3", "cam4"]
    assert document["bytes_total"] == sum(row["bytes"] for row in document["boxes"]) > 10**6
    wanted = [3, 1, 1, 1] if method in STARS else [2, 2, 2, 2]
    assert [row["neighbours"] for row in document["boxes"]] == wanted


def test_a_network_that_no_group_trains_has_no_forecast(tmp_path: Path):
    with pytest.raises(UsageError, match="has batch norm"):
        forecast_document(_read(tmp_path, "full", network="cnn-s"), _plan("cnn-s"))
