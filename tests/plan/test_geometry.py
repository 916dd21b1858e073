"""What a box of a native resolution carries, and the branches that `plan new` makes."""

import pytest

from edge_stl.plan import Plan, new_plan
from edge_stl.plan.networks import Dense


def haar(branches: str = "detail", **options: object) -> Plan:
    return new_plan(**({"classes": "abc", "resolution": 16, "branches": branches} | options))  # type: ignore[arg-type]


def bands_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {branch.name: branch.bands for branch in plan.branches}


def names(branches: tuple[object, ...]) -> list[str]:
    return [branch.name for branch in branches]  # type: ignore[attr-defined]


def test_detail_branches_are_the_details_of_a_level_together():
    assert bands_of(haar()) == {
        "a2": ("cA2",),
        "d2": ("cH2", "cV2", "cD2"),
        "d1": ("cH1", "cV1", "cD1"),
    }


def test_context_branches_are_a_level_with_its_approximation():
    assert bands_of(haar("context")) == {
        "a2": ("cA2",),
        "c2": ("cA2", "cH2", "cV2", "cD2"),
        "c1": ("cA1", "cH1", "cV1", "cD1"),
    }


def test_single_branches_are_every_band_alone():
    bands = ("cA2", "cH2", "cV2", "cD2", "cH1", "cV1", "cD1")

    assert bands_of(haar("single")) == {band.lower(): (band,) for band in bands}


def test_one_branch_of_all_bands_needs_one_size():
    assert bands_of(haar("all", levels=1)) == {"all": ("cA1", "cH1", "cV1", "cD1")}
    assert len(bands_of(haar("all", transform="dct:4"))["all"]) == 16


def test_dct_branches_are_shells_or_whole_blocks():
    inner = ("dct00", "dct01", "dct10", "dct11")

    assert bands_of(haar(transform="dct:4"))["d2"] == inner[1:]
    assert len(bands_of(haar(transform="dct:4"))["d1"]) == 12
    assert bands_of(haar("context", transform="dct:4"))["c2"] == inner
    assert len(bands_of(haar("context", transform="dct:4"))["c1"]) == 16


@pytest.mark.parametrize(
    ("branches", "transform", "needs"),
    [
        ("detail", "haar", {"a2": 4, "d2": 8, "d1": 16}),
        ("context", "haar", {"a2": 4, "c2": 8, "c1": 16}),
        ("detail", "dct:4", {"a2": 4, "d2": 8, "d1": 16}),
        ("context", "dct:4", {"a2": 4, "c2": 8, "c1": 16}),
        (
            "single",
            "haar",
            {"ca2": 4, "ch2": 8, "cv2": 8, "cd2": 8, "ch1": 16, "cv1": 16, "cd1": 16},
        ),
    ],
)
def test_the_smallest_native_resolution_that_holds_a_branch(
    branches: str, transform: str, needs: dict[str, int]
):
    plan = haar(branches, transform=transform)

    assert {b.name: plan.required_resolution(b) for b in plan.branches} == needs


@pytest.mark.parametrize(
    ("resolution", "carried", "own"),
    [
        (16, ["a2", "d2", "d1"], ["d1"]),
        (8, ["a2", "d2"], ["d2"]),
        (4, ["a2"], ["a2"]),
        (2, [], []),
    ],
)
def test_what_a_box_carries_and_what_is_its_own(
    resolution: int, carried: list[str], own: list[str]
):
    assert names(haar().carried(resolution)) == carried
    assert names(haar().own(resolution)) == own


def test_own_falls_back_to_the_finest_branch_that_the_plan_has():
    plan = haar().model_copy(update={"branches": haar().branches[:1]})

    assert names(plan.own(16)) == ["a2"]


def test_all_branches_of_the_finest_requirement_are_own():
    assert names(haar("single").own(8)) == ["ch2", "cv2", "cd2"]


def test_native_resolutions_halve_from_the_plan_s_own():
    assert haar().resolutions == (16, 8, 4)
    assert [haar().native_level(r) for r in (16, 8, 4)] == [0, 1, 2]
    assert haar(transform="dct:8").resolutions == (16, 8, 4, 2)
    with pytest.raises(ValueError, match="not in tuple"):
        haar().native_level(5)


def test_the_size_and_the_channels_of_a_branch_s_input():
    plan = haar("context", channels=3)

    assert [plan.band_size(b) for b in plan.branches] == [4, 4, 8]
    assert [plan.band_channels(b) for b in plan.branches] == [3, 12, 12]


def test_a_branch_is_found_by_name_or_not_at_all():
    assert haar().branch("d2").bands == ("cH2", "cV2", "cD2")
    with pytest.raises(KeyError, match="d3"):
        haar().branch("d3")


def test_the_layers_end_in_one_output_per_class():
    plan = haar(classes=[f"c{i}" for i in range(7)])

    assert all(plan.layers(branch)[-1] == Dense(7) for branch in plan.branches)


@pytest.mark.parametrize("transform", ["stl-dct:4", "stl-dft:4"])
def test_a_polyphase_plan_has_every_band_alone_unless_all_are_asked_for(transform: str):
    single = new_plan(classes="abc", resolution=16, transform=transform)
    together = new_plan(classes="abc", resolution=16, transform=transform, branches="all")

    assert bands_of(single) == {band: (band,) for band in single.bank.bands()}
    assert len(single.branches) == 16
    assert bands_of(together) == {"all": single.bank.bands()}
    assert [together.band_channels(b) for b in together.branches] == [48]
    said = new_plan(classes="abc", resolution=16, transform=transform, branches="single")
    assert said.digest == single.digest


@pytest.mark.parametrize("transform", ["haar", "db2", "dct:4"])
def test_the_others_have_the_details_of_a_level_together_unless_told_otherwise(transform: str):
    unsaid = new_plan(classes="abc", resolution=16, transform=transform)

    assert unsaid.digest == haar(transform=transform).digest
    assert list(bands_of(unsaid)) == ["a2", "d2", "d1"]


@pytest.mark.parametrize("transform", ["stl-dct:2", "stl-dct:5", "stl-dft:3", "stl-dft:4"])
def test_every_band_of_a_polyphase_plan_needs_the_plan_s_own_resolution(transform: str):
    plan = new_plan(classes="abc", resolution=60, transform=transform)

    assert plan.resolutions == (60,)
    assert {plan.required_resolution(b) for b in plan.branches} == {60}
    assert {plan.band_size(b) for b in plan.branches} == {60 // plan.bank.side}
    assert plan.carried(60) == plan.own(60) == plan.branches
    assert plan.carried(30) == plan.own(30) == ()
    with pytest.raises(ValueError, match="not in tuple"):
        plan.native_level(30)
