"""The last lines of ``cotrain``: the file, and who sent how much."""

from typing import Any

import pytest

from device_agent.cotrain._sent import sent_document
from edge_stl.cli._cotrain import _print
from edge_stl.cotrain import Bytes


KNOWN = (Bytes(1_000_000, 200_000, 34_567, 9), Bytes(2_000_000, 0, 0, 3))


def _told(
    capsys: pytest.CaptureFixture[str], *sent: Bytes | None, file: str | None = None
) -> list[str]:
    document: dict[str, Any] = {
        "branch": "ca1",
        "group": "gate",
        "method": "jwins",
        "members": ["cam01", "cam02"],
        "images": 36,
        "validation": {"accuracy": 0.5, "log_loss": 0.7},
        "written_by": "cam01",
        "file": file,
        "signature": None,
        "sha256": "5" * 64,
        "sent": {"bytes": KNOWN[0].total},
        "bytes": sent_document([f"cam0{k + 1}" for k in range(len(sent))], sent),
    }
    _print(document)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("file", [None, "out/ca1.gate.onnx"])
def test_the_last_line_of_every_box_has_its_bytes_and_those_of_all(
    capsys: pytest.CaptureFixture[str], file: str | None
):
    told = _told(capsys, *KNOWN, file=file)

    assert told[-1] == "sent: 1.23 MB from this box, 3.23 MB from all 2 boxes together"
    assert f"sha256 {'5' * 64}" in told[-2]


def test_the_last_line_names_the_boxes_of_which_it_is_not_known(
    capsys: pytest.CaptureFixture[str],
):
    assert _told(capsys, KNOWN[0], None, KNOWN[1], None)[-1] == (
        "sent: 1.23 MB from this box, 3.23 MB from 2 of 4 boxes together; not known of cam02, "
        "cam04 (lost)"
    )
