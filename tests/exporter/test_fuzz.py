"""A damaged file is refused by a verdict of ours, or it is the file it was: nothing in between."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from edge_stl.errors import DataError, IntegrityError
from edge_stl.plan import new_plan
from exporter.merge import merge_paths
from exporter.options import Options
from exporter.read import Unusable, branch_from_bytes
from exporter.split import branch_bytes, members_of


PLAN = new_plan(
    classes=["bus", "car"], resolution=4, levels=1, channels=1, network="mlp-s", branches="detail"
)
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# (place as a share of the file, what is done there, a byte)
EDITS = st.lists(
    st.tuples(
        st.integers(0, 999_999).map(lambda n: n / 1e6),
        st.sampled_from(["flip", "set", "insert", "delete", "cut"]),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, edits: list[tuple[float, str, int]]) -> bytes:
    out = bytearray(data)
    for share, kind, byte in edits:
        place = int(share * len(out))
        if kind == "flip" and out:
            out[place] ^= 1 << byte % 8
        elif kind == "set" and out:
            out[place] = byte
        elif kind == "insert":
            out.insert(place, byte)
        elif kind == "delete" and out:
            del out[place]
        elif kind == "cut":
            del out[place:]
    return bytes(out)


@pytest.fixture(scope="module")
def branch(fabricate: Callable[..., bytes]) -> bytes:
    return fabricate(PLAN, "a1", resolution=2)


@pytest.fixture(scope="module")
def ensemble(
    fabricate_fleet: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    files = fabricate_fleet(PLAN, tmp_path_factory.mktemp("fuzz"))
    return merge_paths(files, options=Options()).model


@FUZZ
@given(edits=EDITS)
def test_a_damaged_branch_file_is_refused_or_equal(
    edits: list[tuple[float, str, int]], branch: bytes
):
    data = damaged(branch, edits)
    reasons, file = ["none"], None
    try:
        file = branch_from_bytes(data, name="f")
    except Unusable as verdict:
        reasons = verdict.reasons
    assert reasons
    assert all(reason.strip() for reason in reasons)
    assert file is None or branch_bytes(file) == data


@FUZZ
@given(edits=EDITS)
def test_a_damaged_ensemble_gives_whole_branch_files_or_none(
    edits: list[tuple[float, str, int]], ensemble: bytes
):
    data = damaged(ensemble, edits)
    try:
        files = members_of(data, name="e").files
    except (DataError, IntegrityError):
        return
    whole = {branch_bytes(f) for f in members_of(ensemble, name="e").files}
    assert {branch_bytes(f) for f in files} <= whole
