"""A network of the user's own on a box: found, trained, stopped and resumed, exported, refused."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from device_agent._budget import Budget
from device_agent.job import Job, Silent, run_job
from edge_stl.branch import Settings, Trainer
from edge_stl.errors import CheckError, Interrupted, ResourceError, UsageError
from edge_stl.plan import Plan, new_plan, plan_from_document
from exporter.merge import merge_paths
from exporter.options import Options
from exporter.read import branch_from_bytes
from exporter.split import branch_bytes, members_of
from tests.own.conftest import package


pytestmark = pytest.mark.slow
CLASSES = ("bus", "car", "van")

needs_exporter = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None,
    reason="needs onnxscript: pip install 'edge-stl[own]'",
)


def plan_of(network: str, **facts: Any) -> Plan:
    chosen: dict[str, Any] = {"levels": 1, "branches": "single", "epochs": 2, "channels": 1}
    return new_plan(classes=CLASSES, resolution=8, network=network, **(chosen | facts))


@pytest.fixture(scope="module")
def photos(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("photos"), CLASSES, side=8, channels=1, count=12)


def job_of(network: str, photos: Path, folder: Path, **changes: Any) -> Job:
    facts: dict[str, Any] = {
        "plan": plan_of(network), "images": photos, "out": folder / "out",
        "work": folder / "work", "box": "cam07", "branch": "ca1",
    }  # fmt: skip
    return Job(**(facts | changes))


def written(job: Job) -> bytes:
    (row,) = run_job(job)
    return Path(row.file).read_bytes()


class Stopping(Silent):
    """Asks to stop after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:
        del branch, done, total, epoch, loss
        self.left -= 1


# -- before any training --------------------------------------------------------------------------


def test_a_network_that_is_not_installed_is_refused_before_an_image_is_decoded(
    photos: Path, tmp_path: Path, installed: Path
):
    job = job_of("own:tinny", photos, tmp_path)
    with pytest.raises(
        UsageError,
        match=r"branch ca1: network own:tinny is no entry point of edge_stl\.networks here; did "
        r"you mean 'tiny'\?\. Install the package",
    ):
        run_job(job)
    assert not (tmp_path / "work" / "images").exists()
    assert installed.is_dir()


def test_without_any_package_the_refusal_says_that_none_is_installed(photos: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"own:tiny is no entry point .* here; none is installed"):
        run_job(job_of("own:tiny", photos, tmp_path))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("broken", r"broken \(road_nets:broken\) failed: RuntimeError: no such luck; expected a"),
        ("no-module", r"returned a str; expected a torch\.nn\.Module"),
        ("other-names", r"failed: TypeError: .*unexpected keyword argument 'channels'"),
        ("few-classes", r"answers \(2, 2\) to bands \(2, 1, 4, 4\); expected logits \(2, 3\)"),
        ("double", r"out\.weight is torch\.float64 on cpu; expected torch\.float32"),
        ("fixed", "has no parameter that could be trained"),
        ("gone", r"cannot be imported: AttributeError: .* 'Gone'"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_in_one_line(
    network: str, said: str, photos: Path, tmp_path: Path, installed: Path
):
    assert installed.is_dir()
    with pytest.raises(UsageError, match=said) as refusal:
        run_job(job_of(f"own:{network}", photos, tmp_path))
    assert "\n" not in str(refusal.value)


def test_two_packages_with_one_name_are_refused(
    photos: Path, tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(package(tmp_path / "more", "more_nets", {"tiny": "Mixer"}))
    with pytest.raises(UsageError, match=r"own:tiny is more_nets:Mixer, road_nets:Tiny; expected"):
        run_job(job_of("own:tiny", photos, tmp_path))
    assert installed.is_dir()


def test_the_missing_exporter_is_said_before_any_training(
    photos: Path, tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
):
    assert installed.is_dir()
    monkeypatch.setattr("edge_stl.branch._own_export._NEEDED", ("onnx", "onnx_of_nobody"))
    with pytest.raises(UsageError, match=r"needs onnx_of_nobody: pip install 'edge-stl\[own\]'"):
        run_job(job_of("own:tiny", photos, tmp_path))
    assert not (tmp_path / "work" / "images").exists()


@needs_exporter
def test_a_box_that_trains_another_branch_needs_no_network_of_this_one(
    photos: Path, tmp_path: Path
):
    document = plan_of("mlp-s").to_document()
    document["branches"][1]["network"] = "own:tiny"
    plan = plan_from_document(document, where="test")
    assert written(job_of("mlp-s", photos, tmp_path, plan=plan))
    with pytest.raises(UsageError, match="branch ch1: network own:tiny is no entry point"):
        run_job(job_of("mlp-s", photos, tmp_path, plan=plan, branch="ch1"))


# -- trained and exported -------------------------------------------------------------------------


@needs_exporter
@pytest.mark.parametrize("network", ["mixer", "groups"])
def test_a_network_is_trained_exported_merged_and_split(
    network: str, photos: Path, tmp_path: Path, installed: Path
):
    """The export compares torch's logits with onnxruntime's, the merge with the box's."""
    assert installed.is_dir()
    (row,) = run_job(job_of(f"own:{network}", photos, tmp_path))
    path = Path(row.file)
    data = path.read_bytes()
    file = branch_from_bytes(data, name="f", accept_graphs=True)
    assert file.manifest.network == f"own:{network}"
    assert 0 < row.parameters < 5000
    model = onnx.load_from_string(data)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    own = r"bands|logits|[nt]\d+"
    told = [n for node in model.graph.node for n in (node.name, *node.input, *node.output)]
    told += [t.name for t in model.graph.initializer]
    assert all(re.fullmatch(own, name) for name in told)
    assert b"secret_layer" not in data
    merged = merge_paths([path], options=Options(), accept_graphs=True)
    assert branch_bytes(members_of(merged.model, name="e").files[0]) == data


@needs_exporter
def test_a_stopped_and_resumed_run_writes_the_bytes_of_one_that_was_not(
    photos: Path, tmp_path: Path, installed: Path
):
    """Dropout draws from the seed and the step, the frozen parameter has no moments."""
    assert installed.is_dir()
    whole = written(job_of("own:tiny", photos, tmp_path / "a"))
    job, stopping = job_of("own:tiny", photos, tmp_path / "b"), Stopping(2)
    torch.manual_seed(1234)  # whatever the process drew before
    with pytest.raises(Interrupted, match="stopped in branch ca1 after 2 of"):
        run_job(job, reporter=stopping, should_stop=lambda: stopping.left <= 0)
    (row,) = run_job(job)
    assert row.resumed
    assert Path(row.file).read_bytes() == whole
    assert b"secret_layer" not in whole
    assert written(replace(job, settings={"seed": 1}, fresh=True)) != whole


@needs_exporter
def test_work_of_an_edited_network_is_not_gone_on_with(
    photos: Path, tmp_path: Path, installed: Path
):
    job, stopping = job_of("own:groups", photos, tmp_path), Stopping(2)
    with pytest.raises(Interrupted, match="stopped in branch ca1"):
        run_job(job, reporter=stopping, should_stop=lambda: stopping.left <= 0)
    source = installed / "road_nets.py"
    source.write_text(source.read_text() + "# edited\n")
    (row,) = run_job(job)
    assert not row.resumed


@needs_exporter
@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("upsampled", r"cam07: network own:upsampled: node \S+ is a Resize of opset 18; the file"),
        ("over-channels", r"node \S+ is a ReduceMean of opset 18; the file has opset 17\. Write"),
        ("counting", r"branch ca1: network own:counting: torch cannot export it: .*; expected"),
    ],
)
def test_what_has_no_portable_form_is_refused_by_name(
    network: str, said: str, photos: Path, tmp_path: Path, installed: Path
):
    assert installed.is_dir()
    with pytest.raises(CheckError, match=said) as refusal:
        run_job(job_of(f"own:{network}", photos, tmp_path))
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "out").iterdir())


@needs_exporter
def test_a_memory_budget_is_kept_or_refused_for_the_whole_batch(
    photos: Path, tmp_path: Path, installed: Path
):
    assert installed.is_dir()
    assert written(job_of("own:groups", photos, tmp_path, budget=Budget(memory=8_000_000_000)))
    tight = job_of("own:groups", photos, tmp_path, budget=Budget(memory=50_000_000), fresh=True)
    with pytest.raises(ResourceError, match=r"needs about \d+ MB with its own network; expected"):
        run_job(tight)


def test_a_step_of_an_own_network_is_that_of_the_whole_batch_whatever_the_micro_batch(
    installed: Path,
):
    assert installed.is_dir()
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(24, dtype=np.int64) % 3
    plan = plan_of("own:tiny")
    losses = []
    for micro in (None, 3):
        trainer = Trainer(
            images, labels, plan=plan, branch_name="ca1", settings=Settings.from_plan(plan)
        )
        assert not trainer.divides
        trainer.micro_batch = micro
        losses.append([trainer.step() for _ in range(2)])
    assert losses[0] == losses[1]
