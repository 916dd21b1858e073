"""A jobs file says what is wrong with it by file and line; jobs never stand in each other's way."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from edge_stl.errors import UsageError
from edge_stl.fleet._job_file import Job, read_jobs, take_shard


LINE = {"plan": "plan.toml", "images": "cam07", "out": "out", "box": "cam07"}


def read(folder: Path, *lines: Any) -> list[Job]:
    """Write lines, text or documents, to a jobs file and read it."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "jobs.jsonl").write_text("\n".join(texts))
    return read_jobs(folder / "jobs.jsonl", folder=folder / "work")


def test_a_line_says_four_things_and_the_rest_follows(tmp_path: Path):
    (job,) = read(tmp_path, LINE)

    assert (job.name, job.line) == ("cam07", 1)
    assert (job.plan, job.images, job.out) == (
        tmp_path / "plan.toml",
        tmp_path / "cam07",
        tmp_path / "out",
    )
    assert (job.folder, job.work) == (tmp_path / "work/cam07", tmp_path / "work/cam07/work")
    assert (job.cpus, job.gpus, job.asked.threads, job.asked.device) == (1, 0, 1, "cpu")


def test_every_key_is_heard(tmp_path: Path):
    line = LINE | {
        "branch": "d1", "name": "big.one", "epochs": 3, "seed": 0, "threads": 4, "device": "auto",
        "work": "/elsewhere/w", "cpus": 1.5, "gpus": 0.5,
    }  # fmt: skip
    other = LINE | {"branch": "d2", "device": "cuda", "threads": 2}
    job, second = read(tmp_path, line, "", "  ", other)

    assert (job.name, job.work) == ("big.one", Path("/elsewhere/w"))
    assert (job.cpus, job.gpus) == (1.5, 0.5)
    assert (job.asked.epochs, job.asked.seed, job.asked.threads) == (3, 0, 4)
    assert (second.name, second.line) == ("d2.cam07", 4)
    assert (second.cpus, second.gpus) == (2, 1)


def test_paths_are_relative_to_the_file_and_not_to_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "deep").mkdir()
    read(tmp_path / "deep", LINE | {"images": "../cam07"})
    monkeypatch.chdir(tmp_path)

    (job,) = read_jobs(Path("deep/jobs.jsonl"), folder=Path("w"))

    assert job.images == tmp_path / "cam07"
    assert job.folder == tmp_path / "w" / "cam07"


WRONG: list[tuple[Any, str]] = [
    (LINE | {"branhc": "d1"}, "branhc: unknown key; did you mean 'branch'"),
    ({"plan": "p", "images": "i", "box": "a"}, "out: is missing"),
    (LINE | {"box": "Cam 7"}, "box: 'Cam 7'; string should match pattern"),
    (LINE | {"branch": "../d1"}, "branch: '../d1'; string should match"),
    (LINE | {"name": "../../x"}, "name: '../../x'; string should match"),
    (LINE | {"name": ".hidden"}, "name: '.hidden'; string should match"),
    (LINE | {"box": "a\n"}, "box: "),
    (LINE | {"plan": ""}, "plan: ''; string should have at least 1 character"),
    (LINE | {"out": "a\0b"}, "out: "),
    (LINE | {"epochs": 0}, "epochs: 0; input should be greater than or equal to 1"),
    (LINE | {"epochs": "3"}, "epochs: '3'; input should be a valid integer"),
    (LINE | {"epochs": True}, "epochs: True; input should be a valid integer"),
    (LINE | {"seed": -1}, "seed: -1; input should be greater than or equal to 0"),
    (LINE | {"threads": 0}, "threads: 0; input should be greater than"),
    (LINE | {"device": "gpu"}, "device: 'gpu'; input should be 'cpu', 'cuda' or 'auto'"),
    (LINE | {"cpus": 0}, "cpus: 0; input should be greater than 0"),
    (LINE | {"device": "auto", "gpus": 2}, "gpus: 2; input should be less than or equal to 1"),
    (LINE | {"device": "cuda", "gpus": 0}, "gpus: 0 hides the GPU that device 'cuda' needs"),
    (LINE | {"gpus": 1}, "gpus: 1 for device 'cpu', which uses none"),
    ('{"plan": "p", "plan": "q"}', "cannot be read .'plan' stands there twice"),
    ('{"plan": NaN}', "cannot be read .NaN is no JSON number"),
    ("[1]", "cannot be read .it is no JSON object"),
    ("plan.toml cam07", "cannot be read .Expecting value"),
    ("[" * 50_000, "cannot be read"),
    ('{"plan": "' + "p" * 200_000 + '"}', "characters; expected at most 100000 in a line"),
    ('{"plan": "\\ud800", "images": "i", "out": "o", "box": "a"}', ""),
]


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_a_wrong_line_is_refused_by_file_and_line(line: Any, said: str, tmp_path: Path):
    good = LINE | {"box": "cam01"}
    with pytest.raises(UsageError, match=r"jobs\.jsonl:2: .*" + said) as caught:
        read(tmp_path, good, line)
    assert "\n" not in str(caught.value)


RIVALS = [
    ({}, "name 'cam07' is that of line 1"),
    ({"name": "b"}, "may write the same file as line 1"),
    ({"name": "b", "out": "./sub/../out"}, "may write the same file as line 1"),
    ({"name": "b", "branch": "d1"}, "may write the same file as line 1"),
    ({"box": "cam08", "work": "work/cam07/work"}, "work 'work/cam07/work' is that of line 1"),
]


@pytest.mark.parametrize(("change", "said"), RIVALS)
def test_two_jobs_in_each_others_way_are_refused(change: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(UsageError, match=r"jobs\.jsonl:2: " + said):
        read(tmp_path, LINE, LINE | change)


def test_two_branches_of_a_box_are_two_jobs(tmp_path: Path):
    jobs = read(tmp_path, LINE | {"branch": "d1"}, LINE | {"branch": "a1"})

    assert [job.name for job in jobs] == ["d1.cam07", "a1.cam07"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "cannot be read .No such file"),
        (b"", "holds no job"),
        (b"\n \n", "holds no job"),
        (b"\xff{}", "is not UTF-8 text"),
    ],
)
def test_a_file_without_jobs_is_refused(data: bytes | None, said: str, tmp_path: Path):
    path = tmp_path / "jobs.jsonl"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=rf"jobs\.jsonl: {said}"):
        read_jobs(path, folder=tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_no_harm(tmp_path: Path):
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(LINE).encode() + b"\r\n")

    assert [job.name for job in read_jobs(path, folder=tmp_path)] == ["cam07"]


@given(count=st.integers(1, 30), machines=st.integers(1, 12))
def test_the_parts_of_all_machines_are_all_jobs_once(count: int, machines: int):
    jobs: list[Any] = list(range(count))

    parts = [take_shard(jobs, f"{i}/{machines}") for i in range(1, machines + 1)]

    assert sorted(itertools.chain.from_iterable(parts)) == jobs
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts[0][0] == 0


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/", "/2", "-1/2", "a/b", "1/2/3", "1.0/2"])
def test_what_is_no_part_is_refused(shard: str):
    with pytest.raises(UsageError, match=rf"--shard {shard}: is no part; expected i/n"):
        take_shard([], shard)
