"""Whole runs, a box a thread: who is refused, what is signed, what a lost link leaves."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from device_agent._types import Job, Silent
from device_agent.cotrain import job as job_module
from device_agent.cotrain._exchange import GlooExchange
from device_agent.cotrain._group import read_group
from device_agent.cotrain._problem import BranchProblem
from device_agent.cotrain.job import GroupJob, run_group_job
from edge_stl.cli import main
from edge_stl.cotrain import Message
from edge_stl.errors import CheckError, DataError, Interrupted, UsageError
from edge_stl.plan import new_plan, plan_toml
from tests.cotrain.toy import not_finite
from tests.cotrain_engine.hall import Hall, together


CLASSES = ["red", "green"]
PLAN = new_plan(
    classes=CLASSES,
    resolution=8,
    levels=1,
    transform="haar",
    branches="single",
    network="cnn-s-gn",
)
GROUP = """
format = 1
name = "gate"
branch = "ca1"
batch = 4
boxes = {boxes}
"""


class Notes(Silent):
    """Keeps what a box says, and may do something after a round."""

    def __init__(self, after: Callable[[int], object] = lambda _: None) -> None:
        self.said: list[str] = []
        self._after = after

    def note(self, sentence: str) -> None:
        self.said.append(sentence)

    def training(self, branch: str, done: int, total: int, epoch: int, loss: float) -> None:  # noqa: ARG002
        self._after(done)


class Site:
    """Folders of boxes that each have a few pictures."""

    def __init__(self, folder: Path, pictures: Callable[..., Path]) -> None:
        self.folder = folder
        for rank in range(3):
            pictures(folder / f"photos{rank}", CLASSES, count=6, side=8, seed=rank)
        (folder / "plan.toml").write_text(plan_toml(PLAN))

    def asked(
        self, hall: Hall, rank: int, method: str = "full", *, table: str = "", **more: Any
    ) -> GroupJob:
        """Return what a box is asked to do; ``more`` are changes of the command line."""
        file = self.folder / f"group{rank}.toml"
        file.write_text(GROUP.format(boxes=list(hall.names)).replace("'", '"') + table)
        job = Job(
            plan=PLAN,
            images=self.folder / f"photos{rank}",
            out=self.folder / "out",
            work=self.folder / "work" / hall.names[rank],
            box=hall.names[rank],
            branch="ca1",
        )
        run = read_group(file, method, PLAN, {"rounds": 4} | more)
        return GroupJob(job, run, hall.place(rank), peer_timeout=hall.limit)


@pytest.fixture
def site(tmp_path: Path, pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Site:
    """Boxes whose first weights are drawn one after the other: torch has one stream a process."""
    turn = threading.Lock()

    def drawn(*arguments: Any, **named: Any) -> BranchProblem:
        with turn:
            return BranchProblem(*arguments, **named)

    monkeypatch.setattr(job_module, "BranchProblem", drawn)
    return Site(tmp_path, pictures)


def _run(asked: list[GroupJob], notes: list[Notes] | None = None) -> list[Any]:
    """Return the document of each box, or its error."""

    def box(rank: int) -> Any:
        try:
            return run_group_job(asked[rank], reporter=notes[rank] if notes else None)
        except (CheckError, DataError, Interrupted, UsageError) as error:
            return error

    return together(len(asked), box)


def test_the_file_of_a_group_is_signed_and_taken_from_who_is_trusted_alone(
    site: Site, capsys: pytest.CaptureFixture[str]
):
    folder, hall = site.folder, Hall(2)
    key, trust = folder / "gate.key", folder / "trust.toml"
    for name in ("gate", "cam01"):
        assert main(["keygen", "-o", str(folder / f"{name}.key")]) == 0
    asked = [site.asked(hall, rank) for rank in range(2)]
    ran = _run([replace(each, job=replace(each.job, key=key)) for each in asked])
    file = folder / "out" / "ca1.gate.onnx"
    merge = ["merge", str(file), "-o", str(folder / "e.onnx"), "--trust", str(trust)]

    def enrol(box: str, whose: str) -> int:
        return main(["trust", "add", box, str(folder / f"{whose}.key.pub"), "--trust", str(trust)])

    def refused() -> str:
        capsys.readouterr()
        assert main(merge) == 60
        return capsys.readouterr().err

    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "ca1.gate.onnx",
        "ca1.gate.onnx.sig",
    ]
    assert ran[0]["signature"] == {
        "file": f"{file}.sig",
        "key": ran[0]["signature"]["key"],
        "counter": 1,
    }
    assert ran[1]["signature"] is None
    assert enrol("cam01", "cam01") == 0
    assert "which trust.toml does not have" in refused()
    assert enrol("gate", "gate") == 0
    assert main(merge) == 0
    assert main(["trust", "revoke", "gate", "--trust", str(trust), "--reason", "sold"]) == 0
    assert "revoked" in refused()


def test_a_group_that_signs_with_the_key_of_a_box_is_refused_at_the_desk(
    site: Site, capsys: pytest.CaptureFixture[str]
):
    folder, hall = site.folder, Hall(2)
    assert main(["keygen", "-o", str(folder / "cam01.key")]) == 0
    asked = [site.asked(hall, rank) for rank in range(2)]
    asked[0] = replace(asked[0], job=replace(asked[0].job, key=folder / "cam01.key"))
    assert isinstance(_run(asked)[0], dict)
    trust, file = str(folder / "trust.toml"), str(folder / "out" / "ca1.gate.onnx")
    assert main(["trust", "add", "cam01", str(folder / "cam01.key.pub"), "--trust", trust]) == 0

    assert main(["merge", file, "-o", str(folder / "e.onnx"), "--trust", trust]) == 60
    said = capsys.readouterr().err
    assert "gate" in said
    assert "cam01" in said


def _alone(asked: GroupJob) -> None:
    """Run a box whose group never comes, for so long as nothing but a hang takes."""
    end = time.monotonic() + 30
    run_group_job(asked, should_stop=lambda: time.monotonic() > end)


def test_a_key_that_would_leave_the_box_is_refused_before_the_others_are_met(site: Site):
    asked = site.asked(Hall(2), 0)
    asked = replace(asked, job=replace(asked.job, key=site.folder / "out" / "gate.key"))

    with pytest.raises(UsageError, match="lies in the output folder"):
        _alone(asked)


def test_a_network_that_cannot_be_averaged_is_refused_before_the_others_are_met(site: Site):
    asked = site.asked(Hall(2), 0)
    plan = new_plan(
        classes=CLASSES, resolution=8, levels=1, transform="haar", branches="single",
        network="cnn-s",
    )  # fmt: skip

    with pytest.raises(UsageError, match="cnn-s has batch norm"):
        _alone(replace(asked, job=replace(asked.job, plan=plan)))


def test_images_that_are_too_coarse_for_the_branch_are_refused_before_the_others_are_met(
    site: Site, pictures: Callable[..., Path]
):
    asked = site.asked(Hall(2), 0, branch="ch1")
    coarse = pictures(site.folder / "coarse", CLASSES, count=6, side=4)

    with pytest.raises(DataError, match="branch ch1: the images reach 4 px; it needs 8"):
        _alone(replace(asked, job=replace(asked.job, images=coarse)))


def test_a_link_that_is_lost_to_all_others_stops_the_box_and_all_go_on_later_to_the_same_bytes(
    site: Site,
):
    over = threading.Event()

    def cut(done: int) -> None:
        if done == 2:
            assert over.wait(100)

    hall = Hall(3, limit=2.0)
    asked = [site.asked(hall, rank, momentum=0.5) for rank in range(3)]
    notes = [Notes(), Notes(cut), Notes(cut)]

    def box(rank: int) -> Any:
        try:
            return run_group_job(asked[rank], reporter=notes[rank])
        except Interrupted as stopped:
            return str(stopped)
        finally:
            if rank == 0:
                over.set()

    assert together(3, box)[0] == (
        "every other box is lost after 2 of 4 rounds; all of it is kept. The same command on all "
        "boxes goes on there"
    )
    assert notes[0].said == [
        f"{name}: lost, nothing was heard of it for 2 s; going on without it"
        for name in ("cam02", "cam03")
    ]
    patient = [replace(each, peer_timeout=60.0) for each in asked]
    again = [replace(each, place=hall.place(each.place.rank, attempt="1")) for each in patient]
    ran = _run(again)
    assert [document["resumed_at"] for document in ran] == [2, 2, 2]
    anew = [
        replace(
            each,
            place=hall.place(each.place.rank, attempt="2"),
            job=replace(each.job, work=site.folder / "anew" / each.job.box),
        )
        for each in patient
    ]
    whole = _run(anew)
    assert [document["lost"] for document in ran + whole] == [[]] * 6
    assert whole[0]["sha256"] == ran[0]["sha256"]


def _sends_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    send = GlooExchange.send

    def spoiled(
        self: GlooExchange, rank: int, message: Message, number: int, cost: Any = None
    ) -> None:
        bad = self.rank == 1 and number == 2
        send(self, rank, not_finite(message) if bad else message, number, cost)

    monkeypatch.setattr(GlooExchange, "send", spoiled)


def _diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    make = job_module.make_engine

    def diverging(run: Any, seat: Any, problem: Any, exchange: Any, *, images: int) -> Any:
        gradient, steps = problem.gradient, list[int]()

        def wild(vector: Any, batch: Any) -> Any:
            steps.append(1)
            found, loss = gradient(vector, batch)
            return (torch.full_like(found, torch.nan) if len(steps) > 2 else found), loss

        if seat.index == 1:
            problem.gradient = wild
        return make(run, seat, problem, exchange, images=images)

    monkeypatch.setattr(job_module, "make_engine", diverging)


@pytest.mark.parametrize(
    ("method", "does", "own", "reason"),
    [
        ("full", _sends_nan, (30, "every other box is lost"), "it sent values that are not finite"),
        ("pca", _sends_nan, (30, "cam01, which sums up, is lost"), "it sent values that are not"),
        ("full", _diverges, (40, "a gradient is not finite; training diverged"), "it left the run"),
    ],
)
def test_a_box_whose_training_goes_wrong_is_named_and_the_others_write_the_file(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    does: Callable[[pytest.MonkeyPatch], None],
    own: tuple[int, str],
    reason: str,
):
    hall = Hall(3)
    notes = [Notes() for _ in range(3)]
    does(monkeypatch)
    ran = _run([site.asked(hall, rank, method) for rank in range(3)], notes)

    assert (ran[1].exit_code, own[1] in str(ran[1])) == (own[0], True)
    for document in (ran[0], ran[2]):
        assert document["members"] == ["cam01", "cam03"]
        assert [row["box"] for row in document["lost"]] == ["cam02"]
    assert reason in ran[0]["lost"][0]["reason"]
    assert sum("cam02: lost, " in line for line in notes[0].said) == 1
    assert (site.folder / "out" / "ca1.gate.onnx").is_file()


OTHER = new_plan(
    classes=CLASSES, resolution=8, levels=1, transform="haar", branches="single", network="lenet-gn"
)


def _other_plan(site: Site, hall: Hall) -> GroupJob:
    asked = site.asked(hall, 1)
    return replace(asked, job=replace(asked.job, plan=OTHER))


_GROUP = "group file, method or options"


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (_other_plan, "plan"),
        (lambda site, hall: site.asked(hall, 1, seed=3), _GROUP),
        (lambda site, hall: site.asked(hall, 1, "jwins"), _GROUP),
        (lambda site, hall: site.asked(hall, 1, rate=0.5), _GROUP),
        (lambda site, hall: replace(site.asked(hall, 1), peer_timeout=5.0), "--peer-timeout"),
    ],
    ids=["plan", "seed", "method", "option", "patience"],
)
def test_boxes_that_do_something_else_are_refused_in_one_line_on_each(
    site: Site, other: Callable[[Site, Hall], GroupJob], what: str
):
    hall = Hall(2)

    first, second = _run([site.asked(hall, 0), other(site, hall)])

    assert isinstance(first, UsageError)
    assert str(first).startswith(f"cam02: has another {what} (")
    assert str(second).startswith(f"cam01: has another {what} (")
    assert "\n" not in f"{first}{second}"


def test_rounds_that_are_kept_belong_to_plan_box_seed_images_and_version(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    asked, key = site.asked(Hall(2), 0), job_module._resume_key
    keys = [
        key(asked, "images", 8),
        key(replace(asked, job=replace(asked.job, plan=OTHER)), "images", 8),
        key(replace(asked, job=replace(asked.job, box="cam09")), "images", 8),
        key(site.asked(Hall(2), 0, seed=9), "images", 8),
        key(site.asked(Hall(2), 0, "jwins"), "images", 8),
        key(asked, "other images", 8),
        key(asked, "images", 4),
    ]
    assert key(site.asked(Hall(2), 0), "images", 8) == keys[0]
    monkeypatch.setattr(job_module, "__version__", "9")
    keys.append(key(asked, "images", 8))

    assert len(set(keys)) == len(keys)
