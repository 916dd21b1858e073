"""Twenty cases of keys and numbers, each with its one right verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_stl.errors import IntegrityError
from edge_stl.trust import (
    Numbers,
    PrivateKey,
    Verdict,
    add_key,
    judge,
    read_seen,
    read_trust,
    remember,
    revoke_keys,
    seen_path,
    sign_branch,
)
from edge_stl.trust._envelope import seal
from edge_stl.trust._statement import BRANCH_TYPE, LARGEST_COUNTER, BranchStatement, to_bytes
from exporter.manifest import sha256


PLAN = "a" * 64


@dataclass
class Scene:
    """A desk that took number 5 of branch a1 of cam01, and a box that signs."""

    trust: Path
    keys: Callable[[str], PrivateKey]

    def judge(
        self,
        data: bytes = b"new",
        *,
        counter: int = 6,
        box: str = "cam01",
        branch: str = "a1",
        plan: str = PLAN,
        key: str = "cam01",
        anew: bool = False,
    ) -> Verdict:
        statement = BranchStatement(
            sha256=sha256(data),
            size=len(data),
            plan_digest=plan,
            counter=counter,
            box=box,
            branch=branch,
        )
        envelope = seal(to_bytes(statement), BRANCH_TYPE, self.keys(key))
        seen = read_seen(self.trust, anew=anew)
        return judge(data, envelope, trust=read_trust(self.trust), seen=seen, wanted="branch")

    def take(self, **facts: Any) -> None:
        verdict = self.judge(**facts)
        assert verdict.ok
        assert verdict.statement
        assert verdict.owner
        remember(self.trust, [(verdict.statement, verdict.owner.id)])


@pytest.fixture
def scene(desk: Any, keys: Callable[[str], PrivateKey]) -> Scene:
    made = Scene(desk.trust, keys)
    made.take(data=b"five", counter=5)
    return made


def revoke(what: str) -> Callable[[Scene], object]:
    return lambda scene: revoke_keys(scene.trust, what, reason="stolen")


def enrol(box: str, key: str) -> Callable[[Scene], object]:
    return lambda scene: add_key(scene.trust, "box", box, scene.keys(key).public)


def first(*steps: Callable[[Scene], object]) -> Callable[[Scene], object]:
    def run(scene: Scene) -> None:
        for step in steps:
            step(scene)

    return run


def nothing(_: Scene) -> None:
    pass


def rotate(scene: Scene) -> None:
    """Go over to a second key, whose numbers go on where those of the first ended."""
    enrol("cam01", "cam01-b")(scene)
    scene.take(data=b"seven", counter=7, key="cam01-b")


TAKEN = ""
CASES: dict[str, tuple[Callable[[Scene], object], dict[str, Any], str]] = {
    "next number": (nothing, {}, TAKEN),
    "older number": (nothing, {"counter": 4}, "its number is 4, and number 5 was taken before"),
    "the same file again": (nothing, {"data": b"five", "counter": 5}, TAKEN),
    "the same number, another file": (
        nothing, {"counter": 5}, "another file than the one taken before with the same number 5"),
    "the old file under an old number": (
        nothing, {"data": b"five", "counter": 1}, "its number is 1, and number 5"),
    "numbers left out": (nothing, {"counter": 1000}, TAKEN),
    "the largest number": (nothing, {"counter": LARGEST_COUNTER}, TAKEN),
    "after the largest number": (
        lambda s: s.take(counter=LARGEST_COUNTER), {"counter": LARGEST_COUNTER - 1}, "was taken"),
    "another branch counts for itself": (nothing, {"branch": "d1", "counter": 1}, TAKEN),
    "another box counts for itself": (
        nothing, {"box": "cam02", "key": "cam02", "counter": 1}, TAKEN),
    "another plan counts for itself": (nothing, {"plan": "b" * 64, "counter": 1}, TAKEN),
    "a key nobody enrolled": (nothing, {"key": "stranger"}, "which trust.toml does not have"),
    "a key of another box": (
        nothing, {"key": "cam02"}, "is signed for box cam01 with key .* of box cam02"),
    "a revoked key": (revoke("cam01"), {}, r"of box cam01, which was revoked \(stolen\)"),
    "an old file of a revoked key": (
        revoke("cam01"), {"counter": 4}, r"revoked \(stolen\).*its number is 4"),
    "a second key of one box": (enrol("cam01", "cam01-b"), {"key": "cam01-b"}, TAKEN),
    "the first key after the second": (rotate, {"counter": 6}, "number 7 was taken before"),
    "the second key, the first revoked": (
        first(enrol("cam01", "cam01-b"), revoke("cam01"), enrol("cam01", "cam01-c")),
        {"key": "cam01-c"}, TAKEN),
    "a desk's key": (nothing, {"key": "hq"}, "is signed by desk hq; expected the key of a box"),
    "a lost record, told to begin anew": (
        lambda s: [p.unlink() for p in s.trust.parent.glob("*.seen*")],
        {"counter": 4, "anew": True}, TAKEN),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_right(name: str, scene: Scene):
    prepare, facts, said = CASES[name]
    prepare(scene)

    reasons = "; ".join(scene.judge(**facts).reasons)

    if said == TAKEN:
        assert reasons == ""
    else:
        with pytest.raises(ValueError, match=said):
            raise ValueError(reasons)


def test_there_are_twenty_cases():
    assert len(CASES) == 20
    assert sum(said == TAKEN for *_, said in CASES.values()) == 10


def test_every_reason_is_given_at_once(scene: Scene):
    revoke("cam02")(scene)
    said = "; ".join(scene.judge(key="cam02", counter=1).reasons)
    for part in (
        "was revoked (stolen)",
        "is signed for box cam01 with",
        "number is 1, and number 5",
    ):
        assert part in said


def test_a_lost_record_is_said_and_nothing_is_taken(scene: Scene):
    for path in scene.trust.parent.glob("*.seen*"):
        path.unlink()
    with pytest.raises(IntegrityError, match=r"seen: missing, so an old .* --start-numbers-anew"):
        scene.judge()


@pytest.mark.parametrize("what", [b"", b"{}", b"edge-stl record sha256 0 bytes 1\n", b"\xff" * 300])
def test_a_damaged_record_is_said_though_the_one_before_is_whole(what: bytes, scene: Scene):
    scene.take()  # so that there is a generation before
    seen_path(scene.trust).write_bytes(what)
    with pytest.raises(IntegrityError, match=r"seen: damaged, so an old .* --start-numbers-anew"):
        scene.judge()
    # told to go on, it still knows what the one before knew
    assert "number 5 was taken before" in "; ".join(scene.judge(counter=4, anew=True).reasons)


def test_a_crash_between_the_two_renames_of_the_record_stops_nobody(scene: Scene):
    scene.take()
    seen_path(scene.trust).unlink()
    assert read_seen(scene.trust).note is not None
    assert "number 5 was taken before" in "; ".join(scene.judge(counter=4).reasons)
    scene.take()
    assert "number 6 was taken before" in "; ".join(scene.judge(counter=5).reasons)


def test_what_was_taken_never_goes_down(scene: Scene):
    """As where two merges end in the other order than they began."""
    old, new = scene.judge(counter=6), scene.judge(counter=9)
    for verdict in (new, old):
        assert verdict.statement
        remember(scene.trust, [(verdict.statement, "cam01")])
    assert [m.counter for m in read_seen(scene.trust).marks.values()] == [9]


def test_a_revoked_key_signs_nothing_old_either(scene: Scene):
    revoke(scene.keys("cam01").public.id)(scene)
    said = scene.judge(data=b"five", counter=5).reasons
    assert said == (
        f"is signed with key {scene.keys('cam01').public.id} of box cam01, which was revoked "
        "(stolen)",
    )


def test_a_box_that_lost_its_folder_goes_on_above_what_the_desk_saw(scene: Scene, tmp_path: Path):
    facts = {"plan_digest": PLAN, "box": "cam01", "branch": "a1"}
    lost = Numbers(tmp_path / "lost")
    known = read_trust(scene.trust)

    def signed(above: int = 0) -> Verdict:
        sig = sign_branch(scene.keys("cam01"), b"new", numbers=lost, above=above, **facts)[1]
        return judge(b"new", sig, trust=known, seen=read_seen(scene.trust), wanted="branch")

    assert "edge-stl sign FILE --key KEYFILE --above 5" in signed().reasons[0]
    assert signed(5).ok
    assert signed().ok  # and from then on by itself
