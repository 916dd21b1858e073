"""`merge --trust`: nothing unsigned, unknown, revoked, replayed or changed gets in."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.errors import IntegrityError, MergeRefused, UsageError
from edge_stl.plan import Plan, new_plan
from edge_stl.trust import (
    Numbers,
    PrivateKey,
    envelope_path,
    read_seen,
    revoke_keys,
    seen_path,
    sign_branch,
)
from exporter.agree import read_all
from exporter.gate import Gate
from exporter.inspect import inspect_path
from exporter.manifest import canonical_json, sha256
from exporter.merge import Merged, change_ensemble, merge_paths
from exporter.options import Options
from exporter.read import parse_model
from exporter.split import branch_bytes, ensemble_record, members_of
from exporter.verify import check_path


Branch = Callable[..., bytes]
Keys = Callable[[str], PrivateKey]


def merged(desk: Any, *paths: Path, skip: bool = False) -> Merged:
    return merge_paths(paths, options=Options(), gate=Gate.open(desk.trust), skip_refused=skip)


@pytest.fixture
def two(desk: Any, branch: Branch) -> tuple[Path, Path]:
    return tuple(desk.put(branch(box), box=box) for box in ("cam01", "cam02"))  # type: ignore[return-value]


def test_signed_files_merge_and_the_ensemble_says_whose_they_are(desk: Any, two: Any, keys: Keys):
    done = merged(desk, *two)

    path = desk.folder / "e.onnx"
    path.write_bytes(done.model)
    table = {box: [keys(box).public.id] for box in ("cam01", "cam02")}
    assert inspect_path(path)["signed"] == table
    assert not check_path(path)
    assert merged(desk, *two[::-1]).model == done.model
    back = members_of(done.model, name="e")
    assert [branch_bytes(f) for f in back.files] == [p.read_bytes() for p in two]


def test_without_trust_the_ensemble_is_what_it_always_was(desk: Any, two: Any):
    plain = merge_paths(two, options=Options())
    assert "signed" not in str(ensemble_record(parse_model(plain.model), name="e"))
    for path in two:
        envelope_path(path).unlink()
    assert merge_paths(two, options=Options()).model == plain.model
    (desk.folder / "e.onnx").write_bytes(plain.model)
    assert inspect_path(desk.folder / "e.onnx")["signed"] is None


def spoil_unsigned(path: Path, _: Any) -> None:
    envelope_path(path).unlink()


def spoil_bit(path: Path, _: Any) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def spoil_envelope(path: Path, _: Any) -> None:
    envelope_path(path).write_bytes(envelope_path(path).read_bytes()[:-9])


def spoil_swap(path: Path, desk: Any) -> None:
    shutil.copy(envelope_path(desk.folder / "a1.cam01.onnx"), envelope_path(path))


def spoil_link(path: Path, desk: Any) -> None:
    real = desk.folder / "real.sig"
    envelope_path(path).rename(real)
    envelope_path(path).symlink_to(real)


def spoil_size(path: Path, _: Any) -> None:
    envelope_path(path).write_bytes(envelope_path(path).read_bytes() + b" " * 70_000)


SPOILT: dict[str, tuple[Callable[[Path, Any], None], str]] = {
    "unsigned": (spoil_unsigned, "is not signed: no file FILE.sig"),
    "one bit of the file": (spoil_bit, "is not the file that was signed"),
    "envelope cut": (spoil_envelope, "its signature file is damaged"),
    "the other's envelope": (spoil_swap, "is not the file that was signed"),
    "envelope is a link": (spoil_link, "is a link, which is not followed"),
    "envelope too large": (spoil_size, "a signature has at most 65536"),
    "revoked": (
        lambda _, desk: revoke_keys(desk.trust, "cam02", reason="sold"), r"was revoked \(sold\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_a_file_whose_signature_does_not_hold_is_refused_alone(name: str, desk: Any, two: Any):
    spoil, said = SPOILT[name]
    spoil(two[1], desk)

    with pytest.raises(IntegrityError, match=said) as caught:
        merged(desk, *two)
    assert "1 of 2 files refused: [1] a1.cam02.onnx: " in str(caught.value)
    assert caught.value.exit_code == 60
    went_on = merged(desk, *two, skip=True)
    assert [f.manifest.box for f in went_on.files] == ["cam01"]
    with pytest.raises(IntegrityError, match="no file may be merged"):
        merged(desk, two[1])


def test_signed_for_another_box_branch_or_plan_is_refused(desk: Any, branch: Branch, keys: Keys):
    data = branch("cam01")
    path = desk.folder / "x.onnx"
    path.write_bytes(data)
    cases = (
        ({"box": "cam02"}, "cam02", "signed for box cam02, and is of box cam01"),
        ({"branch": "d1"}, "cam01", "is signed for branch d1, and is of branch a1"),
        ({"plan_digest": "b" * 64}, "cam01", "is signed for plan bbbbbbbbbbbb, and is of plan"),
    )
    for change, owner, said in cases:
        facts = {"plan_digest": plan_of().digest, "box": "cam01", "branch": "a1"} | change
        numbers = Numbers(desk.folder / "n")
        envelope_path(path).write_bytes(sign_branch(keys(owner), data, numbers=numbers, **facts)[1])
        with pytest.raises(IntegrityError, match=said):
            merged(desk, path)


def test_all_verdicts_come_in_one_go_and_other_faults_are_a_refusal(
    desk: Any, two: Any, branch: Branch
):
    stranger = desk.put(branch("cam09"), box="cam09")
    text = desk.folder / "text.onnx"
    text.write_bytes(b"hello")
    wrong = desk.put(b"no model", box="cam02", branch="d1")
    with pytest.raises(MergeRefused, match="3 of 4 files refused") as caught:
        merged(desk, two[0], stranger, text, wrong)
    said = str(caught.value)
    assert "which trust.toml does not have" in said
    assert "text.onnx: is not signed" in said
    assert "d1.cam02.onnx: is not an ONNX file" in said
    assert caught.value.exit_code == 50


def test_a_file_that_is_not_signed_is_not_even_parsed(
    desk: Any, two: Any, monkeypatch: pytest.MonkeyPatch
):
    spoil_unsigned(two[1], desk)
    parsed = []
    monkeypatch.setattr("exporter.gate.branch_from_bytes", lambda *_, **k: parsed.append(k["name"]))
    with pytest.raises((IntegrityError, TypeError), match=r"\w"):
        merged(desk, two[1])
    assert parsed == []


def test_numbers_are_kept_only_once_the_caller_wrote_the_ensemble(desk: Any, two: Any):
    gate = Gate.open(desk.trust)
    done = merge_paths(two, options=Options(), gate=gate)
    assert not read_seen(desk.trust).marks
    gate.remember(done.files)
    assert sorted(m.of for m in read_seen(desk.trust).marks.values()) == ["a1.cam01", "a1.cam02"]


def test_an_old_file_is_refused_after_a_newer_one_was_taken(desk: Any, branch: Branch):
    old = desk.put(branch(seed=1), box="cam01")
    kept = [(p, p.read_bytes()) for p in (old, envelope_path(old))]
    for _ in range(2):  # the same again is no replay
        gate = Gate.open(desk.trust)
        gate.remember(merge_paths([old], options=Options(), gate=gate).files)
    new = desk.put(branch(seed=2), box="cam01")
    gate = Gate.open(desk.trust)
    gate.remember(merge_paths([new], options=Options(), gate=gate).files)
    for path, data in kept:
        path.write_bytes(data)
    with pytest.raises(IntegrityError, match="its number is 1, and number 2 was taken before"):
        merged(desk, old)


def test_a_lost_record_is_begun_anew_only_by_order(desk: Any, two: Any):
    for path in desk.folder.glob("*.seen*"):
        path.unlink()
    with pytest.raises(IntegrityError, match="go on once with --start-numbers-anew"):
        merged(desk, *two)
    gate = Gate.open(desk.trust, anew=True)
    gate.remember(merge_paths(two, options=Options(), gate=gate).files)
    assert seen_path(desk.trust).exists()
    assert merged(desk, *two).model


# -- changing an ensemble -----------------------------------------------------------------------


def test_a_branch_taken_out_leaves_what_merging_the_others_gives(desk: Any, two: Any):
    whole = merged(desk, *two)
    gate = Gate.open(desk.trust)
    one = change_ensemble(whole.model, name="e", remove=["cam02"], gate=gate)
    assert one.model == merged(desk, two[0]).model
    both = change_ensemble(one.model, name="e", add=[two[1]], gate=gate)
    assert both.model == whole.model


def test_without_trust_a_changed_ensemble_claims_no_signatures(desk: Any, two: Any):
    whole = merged(desk, *two)
    one = change_ensemble(whole.model, name="e", remove=["cam02"])
    assert one.model == merge_paths([two[0]], options=Options()).model


def test_a_box_that_is_no_longer_trusted_must_be_taken_out(desk: Any, two: Any):
    whole = merged(desk, *two)
    unsigned = merge_paths(two, options=Options())
    revoke_keys(desk.trust, "cam02", reason="sold")
    gate = Gate.open(desk.trust)
    with pytest.raises(IntegrityError, match=r"a1\.cam02 was signed with .* revoked \(sold\)"):
        change_ensemble(whole.model, name="e", remove=["cam01"], gate=gate)
    assert change_ensemble(whole.model, name="e", remove=["cam02"], gate=gate).model
    with pytest.raises(IntegrityError, match=r"a1\.cam01 was merged without its signature being"):
        change_ensemble(unsigned.model, name="e", remove=["cam02"], gate=gate)


@pytest.mark.parametrize("claim", ["x", 7, "A" * 16, None])
def test_a_claim_of_signatures_that_no_merge_makes_is_damage(claim: Any, desk: Any, two: Any):
    model = parse_model(merged(desk, *two).model)
    (prop,) = [p for p in model.metadata_props if p.key == "edge_stl.ensemble"]
    record = json.loads(prop.value)
    if claim is None:
        del record["members"][0]["signed"]  # one of two
    else:
        record["members"][0]["signed"] = claim
    prop.value = canonical_json(record)
    with pytest.raises(IntegrityError, match="expected the id of a key for every branch, or for n"):
        members_of(model.SerializeToString(), name="e")


# -- copy, then verify the copy -----------------------------------------------------------------


def test_a_thousand_swaps_during_reading_let_nothing_else_in(desk: Any, branch: Branch):
    """Good file, other content, links: what comes through is the signed file, or nothing."""
    good = desk.put(branch("cam01"), box="cam01")
    data, evil = good.read_bytes(), branch("cam01", seed=9)
    secret = desk.folder / "secret"
    secret.write_bytes(evil)
    done = threading.Event()

    def swap() -> None:
        side, turn = desk.folder / "side", 0
        while not done.is_set():
            turn += 1
            if turn % 5 == 1:
                side.symlink_to(secret)
            elif turn % 5 == 2:
                with good.open("r+b") as half:  # over the file in its place
                    half.write(evil[: len(evil) // 2])
                continue
            else:
                side.write_bytes(data if turn % 5 else evil)
            os.replace(side, good)  # noqa: PTH105

    thread = threading.Thread(target=swap)
    thread.start()
    gate, taken, refused = Gate.open(desk.trust), 0, 0
    try:
        for _ in range(1000):
            files, refusals = read_all([good], gate=gate)
            taken += len(files)
            refused += len(refusals)
            assert all(f.sha256 == sha256(data) for f in files)
    finally:
        done.set()
        thread.join()
    assert taken + refused == 1000
    assert taken
    assert refused


# -- files of other plans, and copies -----------------------------------------------------------


def plan_of(**changes: Any) -> Plan:
    facts: dict[str, Any] = {
        "classes": ["bus", "car", "van"], "resolution": 8, "levels": 1, "channels": 1,
        "network": "mlp-s",
    }  # fmt: skip
    return new_plan(**(facts | changes))


MIXES: dict[str, Plan] = {
    "classes in another order": plan_of(classes=["car", "bus", "van"]),
    "a class more": plan_of(classes=["bus", "car", "ox", "van"]),
    "a class less": plan_of(classes=["bus", "car"]),
    "a class renamed": plan_of(classes=["bus", "car", "Van"]),
    "a class in other letters": plan_of(classes=["bus", "car", "vаn"]),  # noqa: RUF001
    "a class with an accent": plan_of(classes=["bus", "car", "vän"]),
    "another filter": plan_of(transform="db2"),
    "another transform": plan_of(transform="dct:2", levels=None),
    "more levels": plan_of(levels=2),
    "another resolution": plan_of(resolution=16),
    "more channels": plan_of(channels=3),
    "another fit": plan_of(fit="pad"),
    "another network": plan_of(network="cnn-xs"),
    "other branches": plan_of(branches="context"),
    "other training": plan_of(epochs=3),
    "other augmentation": plan_of(flip=False),
    "another name": plan_of(name="other"),
}


@pytest.mark.parametrize("name", MIXES)
def test_a_good_signature_does_not_let_another_plan_in(
    name: str, desk: Any, two: Any, branch: Branch
):
    plan = MIXES[name]
    desk.enrol("cam03")
    first = plan.branches[0].name
    other = desk.put(
        branch("cam03", first, plan=plan), box="cam03", branch=first, plan_digest=plan.digest
    )
    with pytest.raises(MergeRefused, match=r"cam03\.onnx: was made under another plan"):
        merged(desk, *two, other)
    assert merged(desk, *two, other, skip=True).model == merged(desk, *two).model


def test_the_same_file_three_times_counts_once(desk: Any, two: Any):
    copies = []
    for n in range(3):
        copy = desk.folder / f"copy{n}.onnx"
        shutil.copy(two[0], copy)
        shutil.copy(envelope_path(two[0]), envelope_path(copy))
        copies.append(copy)
    assert merged(desk, *two, *copies).model == merged(desk, *two).model


def test_a_second_version_of_a_branch_is_refused_with_both(desk: Any, two: Any, branch: Branch):
    old = desk.folder / "old.onnx"
    shutil.copy(two[0], old)
    shutil.copy(envelope_path(two[0]), envelope_path(old))
    new = desk.put(branch("cam01", seed=5), box="cam01")
    with pytest.raises(MergeRefused, match="keep the one its box made last"):
        merged(desk, old, new, two[1])


def test_a_copied_branch_under_another_key_is_refused(desk: Any, two: Any, keys: Keys):
    """Its manifest names its box; to sign it with a key of one's own does not change that."""
    stolen = desk.folder / "stolen.onnx"
    shutil.copy(two[0], stolen)
    facts = {"plan_digest": plan_of().digest, "box": "cam02", "branch": "a1"}
    numbers = Numbers(desk.folder / "n2")
    _, envelope = sign_branch(keys("cam02"), stolen.read_bytes(), numbers=numbers, **facts)
    envelope_path(stolen).write_bytes(envelope)
    with pytest.raises(IntegrityError, match="signed for box cam02, and is of box cam01"):
        merged(desk, stolen)


def test_a_gate_needs_its_trust_file(tmp_path: Path):
    with pytest.raises(UsageError, match=r"trust\.toml: there is no such file; expected a trust f"):
        Gate.open(tmp_path / "trust.toml")
