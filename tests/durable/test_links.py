"""A link where a file is expected is never followed: not to read, and not to write."""

import os
from pathlib import Path

import pytest

from edge_stl.durable import PartFile, read_record, write_durably, write_record
from edge_stl.errors import ResourceError


def test_a_link_to_a_whole_record_is_no_record(tmp_path: Path):
    write_record(tmp_path / "other", b"of another box")
    (tmp_path / "record").symlink_to(tmp_path / "other")

    found = read_record(tmp_path / "record")

    assert found.body is None
    assert "damaged" in (found.note or "")


def test_a_link_in_the_place_of_the_half_written_file_leads_nowhere(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"somebody's")
    (tmp_path / f".plan.{os.getpid()}.tmp").symlink_to(victim)

    with pytest.raises(ResourceError, match=r"plan: cannot be written .*; expected a writable fo"):
        write_durably(tmp_path / "plan", b"plan")

    assert victim.read_bytes() == b"somebody's"
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize("at", [0, 4])
def test_a_file_that_grows_never_grows_behind_a_link(at: int, tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"somebody's")
    part = tmp_path / "part"
    part.symlink_to(victim)

    if at:
        with pytest.raises(OSError, match="symbolic link"):
            PartFile(part, at=at)
    else:
        with PartFile(part, at=at) as file:
            file.append(b"ours")

    assert victim.read_bytes() == b"somebody's"
    assert part.is_symlink() == (at > 0)
