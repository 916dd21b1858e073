"""A holdout puts boxes into quarantine, says why, and an override is on record."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

from edge_stl.cli import main
from edge_stl.errors import IntegrityError, UsageError
from edge_stl.predict import Ensemble, evaluate
from exporter import names
from exporter.copies import ALIKE, find_copies
from exporter.inspect import inspect_path
from exporter.manifest import canonical_json, sha256
from exporter.merge import Merged, change_ensemble, merge_paths
from exporter.options import Options
from exporter.read import branch_from_bytes
from exporter.split import ensemble_record, members_of
from exporter.verify import check_path


class Desk(NamedTuple):
    """Three boxes that know something, one whose labels are turned round."""

    folder: Path
    holdout: Path
    test: Path

    def paths(self, *boxes: str) -> list[Path]:
        return [self.folder / f"ca1.{b}.onnx" for b in boxes or ("b0", "b1", "b2", "flipped")]


@pytest.fixture(scope="module")
def desk(
    bar_box: Callable[..., Path],
    bar_photos: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    for i, (box, skill) in enumerate(
        {"b0": "right", "b1": "right", "b2": "right", "flipped": "wrong"}.items()
    ):
        bar_box(folder / f"ca1.{box}.onnx", box, skill, seed=40 + i)
    return Desk(
        folder,
        bar_photos(folder / "holdout", count=80, seed=1),
        bar_photos(folder / "test", count=60, seed=2),
    )


def merged_of(desk: Desk, *, rule: str = "reliability", **how: Any) -> Merged:
    return merge_paths(desk.paths(), options=Options(weights=rule), holdout=desk.holdout, **how)


@pytest.mark.parametrize("rule", ["reliability", "uniform", "fitted"])
def test_a_flipped_box_is_left_out_and_the_ensemble_is_that_of_the_others(rule: str, desk: Desk):
    merged = merged_of(desk, rule=rule)
    assert merged.audit is not None
    (out,) = merged.audit.verdicts.quarantined
    assert out.box == "flipped"
    assert "hardly more than guesses" in out.reason
    assert [f.manifest.box for f in merged.files] == ["b0", "b1", "b2"]
    rest = merge_paths(
        desk.paths("b0", "b1", "b2"), options=Options(weights=rule), holdout=desk.holdout
    )
    assert merged.weights == rest.weights
    with_all = merged_of(desk, rule=rule, keep=["flipped"])
    if rule != "fitted":  # a fit silences such a box by itself
        accuracy = {
            name: evaluate(Ensemble(m.model), desk.test).scores.accuracy
            for name, m in {"out": merged, "in": with_all}.items()
        }
        assert accuracy["out"] > accuracy["in"] + 0.02


def test_under_a_median_a_holdout_audits_too(desk: Desk):
    merged = merge_paths(desk.paths(), options=Options(robust="median"), holdout=desk.holdout)
    assert merged.audit is not None
    assert [q.box for q in merged.audit.verdicts.quarantined] == ["flipped"]
    assert 0 < merged.audit.certified < merged.audit.accuracy


def test_the_verdict_stands_in_the_file_and_comes_back(desk: Desk, tmp_path: Path):
    merged = merged_of(desk)
    path = tmp_path / "e.onnx"
    path.write_bytes(merged.model)
    assert check_path(path, target="portable") == []
    (row,) = inspect_path(path)["audit"]["quarantined"]
    assert row["box"] == "flipped"
    assert str(desk.holdout) not in json.dumps(row)
    content = members_of(merged.model, name="e")
    assert merged.audit is not None
    assert content.verdicts == merged.audit.verdicts


def test_an_override_is_recorded(desk: Desk):
    merged = merged_of(desk, keep=["flipped"])
    assert len(merged.files) == 4
    record = ensemble_record(onnx.load_from_string(merged.model), name="e")
    assert record["audit"]["quarantined"] == []
    (row,) = record["audit"]["kept"]
    assert row["box"] == "flipped"


def test_keeping_a_box_that_nothing_speaks_against_records_nothing(desk: Desk):
    paths = desk.paths("b0", "b1", "b2")
    plain = merge_paths(paths, options=Options())
    kept = merge_paths(paths, options=Options(), holdout=desk.holdout, keep=["b1"])
    assert kept.model == plain.model
    assert kept.audit is not None
    assert not any(trial.suspect for trial in kept.audit.trials)


def test_without_a_holdout_nobody_is_judged(desk: Desk):
    merged = merge_paths(desk.paths(), options=Options())
    assert merged.audit is None
    assert len(merged.files) == 4
    with pytest.raises(UsageError, match=r"--keep b0: nothing speaks against any box; expected"):
        merge_paths(desk.paths(), options=Options(), keep=["b0"])


def test_half_of_the_boxes_is_never_taken_out(
    desk: Desk, bar_box: Callable[..., Path], tmp_path: Path
):
    paths = desk.paths("b0", "b1")
    paths += [
        bar_box(tmp_path / f"ca1.f{i}.onnx", f"f{i}", "wrong", seed=60 + i, loss=0.9)
        for i in range(2)
    ]
    merged = merge_paths(paths, options=Options(weights="uniform"), holdout=desk.holdout)
    assert merged.audit is not None
    assert len(merged.audit.verdicts.quarantined) == 1


def test_the_certified_share_is_that_of_the_ensemble_as_it_is(desk: Desk):
    three = merge_paths(
        desk.paths("b0", "b1", "b2"), options=Options(weights="uniform"), holdout=desk.holdout
    )
    assert three.audit is not None
    assert 0 < three.audit.certified < three.audit.accuracy < 1
    seen = evaluate(Ensemble(three.model), desk.holdout)
    assert three.audit.accuracy == pytest.approx(seen.scores.accuracy)
    assert three.audit.images == len(seen.labels)


def test_a_changed_ensemble_without_a_holdout_keeps_no_verdict(desk: Desk):
    merged = merged_of(desk)
    less = change_ensemble(merged.model, name="e", remove=["b2"])
    assert less.model == merge_paths(desk.paths("b0", "b1"), options=Options()).model


@pytest.mark.parametrize(
    "audit",
    [
        [],
        {},
        {"quarantined": [], "kept": []},
        {"quarantined": [{"box": "x"}], "kept": []},
        {"quarantined": [{"box": "x", "reason": 5}], "kept": []},
        {"quarantined": [{"box": "x", "reason": "a\nb"}], "kept": []},
        {"quarantined": [{"box": "x", "reason": "a" * 500}], "kept": []},
        {"quarantined": "x", "kept": []},
        {"quarantined": [{"box": "x", "reason": "y"}], "kept": [], "more": 1},
    ],
)
def test_a_record_of_an_audit_that_cannot_be_is_refused(audit: Any, desk: Desk):
    model = onnx.load_from_string(merged_of(desk).model)
    for entry in model.metadata_props:
        if entry.key == names.KEY_ENSEMBLE:
            entry.value = canonical_json(json.loads(entry.value) | {"audit": audit})
    with pytest.raises(IntegrityError, match="record is incomplete or wrong"):
        members_of(model.SerializeToString(), name="e")


def test_the_command_tells_and_documents_it(
    desk: Desk,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    assert_schema: Callable[[Any, str], None],
):
    files = [str(p) for p in desk.paths()]
    call = ["merge", *files, "-o", str(tmp_path / "e.onnx"), "--holdout", str(desk.holdout)]
    assert main(call) == 0
    out, err = capsys.readouterr()
    assert "Back doors that were trained in cannot be excluded" in out
    assert "stay so whatever any one box says" in out
    assert "quarantine: box flipped does not answer: right on " in err
    assert main([*call, "--json", "--keep", "flipped"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert_schema(document, "merge")
    assert [row["box"] for row in document["audit"]["kept"]] == ["flipped"]
    assert len(document["audit"]["boxes"]) == 4
    assert main(["inspect", str(tmp_path / "e.onnx")]) == 0
    assert "kept in spite of a holdout: flipped" in capsys.readouterr().out


# -- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "found"), [(0.0, True), (1e-3, True), (0.5, False)])
def test_one_network_under_two_names_is_found(noise: float, found: bool, desk: Desk):
    original = branch_from_bytes(desk.paths("b0")[0].read_bytes(), name="f")
    rng = np.random.default_rng(0)
    parameters = {
        name: array + noise * array.std() * rng.normal(size=array.shape).astype(np.float32)
        for name, array in original.parameters.items()
    }
    manifest = original.manifest.model_copy(update={"box": "thief"})
    copies = find_copies([original, replace(original, manifest=manifest, parameters=parameters)])
    assert bool(copies) == found
    if found:
        assert (copies[0].first, copies[0].second) == ("ca1.b0", "ca1.thief")
        assert copies[0].cosine > ALIKE


def test_merge_warns_of_a_copy(desk: Desk, bar_box: Callable[..., Path], tmp_path: Path):
    copied = bar_box(tmp_path / "ca1.thief.onnx", "thief", "right", seed=40)  # b0's seed
    merged = merge_paths([*desk.paths("b0", "b1"), copied], options=Options())
    assert any("ca1.b0 and ca1.thief: the same network" in w for w in merged.warnings)
    assert sha256(merged.model) == merged.sha256


def test_honest_boxes_are_no_copies(desk: Desk):
    merged = merge_paths(desk.paths("b0", "b1", "b2"), options=Options())
    assert merged.copies == ()
