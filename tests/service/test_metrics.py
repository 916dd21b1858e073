"""The metrics file is what Prometheus reads, whole at every moment, and never flushed."""

import math
import os
import re
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from edge_stl.durable import write_passing
from edge_stl.service._metrics import Metric, Numbers, render


_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,(?=[a-zA-Z_])|(?=\}))')
_SAMPLE = re.compile(rf"({_NAME})(\{{.*\}})? ([^ ]+)", re.DOTALL)

Sample = tuple[str, tuple[tuple[str, str], ...]]


def parse(text: str) -> tuple[dict[Sample, float], dict[str, str]]:
    """Read the text format strictly: samples, and the type of every metric."""
    samples: dict[Sample, float] = {}
    types: dict[str, str] = {}
    assert text == "" or text.endswith("\n")
    lines = text.split("\n")[:-1]
    for i, line in enumerate(lines):
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in types, "metrics stand together"
            assert lines[i + 1].startswith(f"# TYPE {name} ")
            assert re.fullmatch(r"(?:[^\\]|\\[\\n])*", line), line
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in {"gauge", "counter"}
            assert name.endswith("_total") == (kind == "counter")
            types[name] = kind
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, line
            labels, at = [], 1
            inner = match[2] or "{}"
            while inner[at] != "}":
                found = _LABEL.match(inner, at)
                assert found, line
                plain = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), found[2])
                labels.append((found[1], plain))
                at = found.end()
            assert at == len(inner) - 1, line
            key = (match[1], tuple(labels))
            assert list(types)[-1] == match[1]
            assert key not in samples
            samples[key] = float(match[3])
    return samples, types


def test_the_numbers_of_a_service_read_back():
    numbers = Numbers(
        facts={"box": "cam07", "version": "1"},
        images=5,
        new=2,
        left_out={"truncated": 3, "too_small": 1},
        training=True,
        steps={"d1": (3, 9, 1, 0.5), "a2": (1, 2, 0, math.nan)},
        checkpoint_age={"d1": 7.25},
        trainings=4,
        failures=1,
        last_success=1.7e9,
        paused={"hours": True, "retry": False},
        rss=123,
        celsius={"cpu-thermal": 61.5},
    )
    samples, types = parse(render(numbers.metrics()))

    def of(name: str, **labels: str) -> float:
        return samples[f"edge_stl_{name}", tuple(sorted(labels.items()))]

    assert of("info", box="cam07", version="1") == 1
    assert of("images") == 5
    assert of("images_left_out", reason="truncated") == 3
    assert of("steps_done", branch="d1") == 3
    assert of("steps_planned", branch="d1") == 9
    assert of("loss_nats", branch="d1") == 0.5
    assert math.isnan(of("loss_nats", branch="a2"))
    assert of("checkpoint_age_seconds", branch="d1") == 7.25
    assert of("last_success_timestamp_seconds") == 1.7e9
    assert (of("paused", reason="hours"), of("paused", reason="retry")) == (1, 0)
    assert of("celsius", zone="cpu-thermal") == 61.5
    assert types["edge_stl_trainings_total"] == "counter"


def test_what_is_not_known_is_not_told():
    samples, _ = parse(render(Numbers().metrics()))

    assert not {"edge_stl_images", "edge_stl_resident_memory_bytes"} & {name for name, _ in samples}


@given(st.text(st.characters(exclude_categories=[])), st.text(), st.floats(allow_nan=False))
def test_any_label_help_and_number_read_back(label: str, text: str, value: float):
    # A help line ends where a line of Prometheus ends: at a newline alone.
    metric = Metric("edge_stl_x", "gauge", text, {(("zone", label),): value})
    samples, _ = parse(render([metric]))

    safe = label.encode("utf-8", "replace").decode()
    assert samples == {("edge_stl_x", (("zone", safe),)): value}


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path):
    path, texts = tmp_path / "m.prom", [b"a" * 100_000, b"b" * 70_000]
    write_passing(path, texts[0])
    over = threading.Event()

    def write() -> None:
        for i in range(300):
            write_passing(path, texts[i % 2])
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        assert path.read_bytes() in texts
    writer.join()
    assert [p.name for p in tmp_path.iterdir()] == ["m.prom"]


def test_it_is_readable_for_others_whatever_the_umask_and_replaces_no_target_of_a_link(
    tmp_path: Path,
):
    (tmp_path / "target").write_text("precious")
    (tmp_path / "m.prom").symlink_to("target")
    before = os.umask(0o077)
    try:
        write_passing(tmp_path / "m.prom", b"x 1\n")
    finally:
        os.umask(before)

    assert (tmp_path / "target").read_text() == "precious"
    assert stat.S_IMODE((tmp_path / "m.prom").stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "m.prom"
    write_passing(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_stl.durable._files._write_all", fail)
    with pytest.raises(OSError, match="No space left"):
        write_passing(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
