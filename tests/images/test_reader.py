"""Whatever happens to the process that decodes, it costs the one image that did it."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from edge_stl.errors import Interrupted, ResourceError, UsageError
from edge_stl.images import (
    ImageReader,
    ReadLimits,
    _reader,
    _reader_limits,
    _reader_main,
    _reader_process,
    decode,
    fit_square,
)
from edge_stl.images._reader_wire import FITS, Answer, Question


CHILD = Path(__file__).with_name("misbehaving_reader.py")
LIMITS = ReadLimits.of(max_pixels=1_000_000, max_bytes=1_000_000)


def picture(path: Path, *, height: int = 21, width: int = 34, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def read(paths: Iterable[Path], limits: ReadLimits = LIMITS, *, fit: str = "crop") -> list[Answer]:
    with ImageReader(limits) as reader:
        return list(reader.rows(paths, side=8, channels=3, fit=fit))  # type: ignore[arg-type]


def expected(path: Path, *, fit: str = "crop") -> bytes:
    pixels = decode(path, channels=3, max_pixels=10**6, max_bytes=10**6)
    return fit_square(pixels, 8, fit).tobytes()  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process that another test used."""
    monkeypatch.setattr(_reader, "ReaderProcess", _reader_process.ReaderProcess)


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reader_process, "CHILD", (str(CHILD),))


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process ids that were started."""
    found: list[int] = []
    real = subprocess.Popen

    def popen(*arguments: object, **options: object) -> object:
        process = real(*arguments, **options)  # type: ignore[call-overload]
        found.append(process.pid)
        return process

    monkeypatch.setattr(_reader_process.subprocess, "Popen", popen)
    return found


@pytest.mark.parametrize("fit", FITS)
def test_rows_are_those_of_decoding_here_and_in_order(tmp_path: Path, fit: str):
    paths = [
        picture(tmp_path / f"{i}.png", height=20 + i % 5, width=20 + i % 7, seed=i)
        for i in range(40)
    ]

    answers = read(paths, fit=fit)

    assert [a.row for a in answers] == [expected(path, fit=fit) for path in paths]
    assert {a.reason for a in answers} == {None}


def test_sizes_and_reasons_come_in_order(tmp_path: Path):
    wide = picture(tmp_path / "wide.png")
    (tmp_path / "text.png").write_bytes(b"hello")
    os.mkfifo(tmp_path / "fifo.png")
    odd = picture(tmp_path / os.fsdecode(b"\xff\n.png"), height=5)
    paths = [wide, tmp_path / "text.png", tmp_path / "fifo.png", tmp_path / "gone.png", odd] * 30

    with ImageReader(LIMITS) as reader:
        answers = list(reader.sizes(paths, fit="crop"))

    one = [None, "not_an_image", "not_a_file", "vanished", None]
    assert [a.reason for a in answers] == one * 30
    assert [(a.width, a.height) for a in answers[:5:4]] == [(34, 21), (34, 5)]


def test_an_image_that_would_be_enlarged_is_too_small(tmp_path: Path):
    (answer,) = read([picture(tmp_path / "a.png", height=7)])

    assert answer.reason == "too_small"


def test_a_line_whose_padded_square_has_too_many_pixels_is_refused(tmp_path: Path):
    """900 000 pixels in a row are allowed; a square of 900 000 x 900 000 is not."""
    Image.new("L", (60_000, 15)).save(tmp_path / "line.png")

    assert read([tmp_path / "line.png"])[0].reason is None
    assert read([tmp_path / "line.png"], fit="pad")[0].reason == "too_many_pixels"
    with ImageReader(LIMITS) as reader:
        (answer,) = reader.sizes([tmp_path / "line.png"], fit="pad")
    assert answer.reason == "too_many_pixels"


@pytest.mark.usefixtures("misbehaving")
@pytest.mark.parametrize(
    ("what", "reason", "changes"),
    [
        ("abort", "decoder_died", {}),
        ("kill", "decoder_died", {}),
        ("exit", "decoder_died", {}),
        ("loop", "took_too_long", {"cpu_seconds": 0}),
        ("sleep", "took_too_long", {"wall_seconds": 2.0}),
        ("bomb", "too_much_memory", {}),
    ],
)
def test_an_image_that_ends_the_process_costs_itself_alone(
    tmp_path: Path, starts: list[int], what: str, reason: str, changes: dict[str, float]
):
    good = [picture(tmp_path / f"{i}.png", seed=i) for i in range(6)]
    paths = [*good[:3], picture(tmp_path / f"{what}-.png"), *good[3:]]

    answers = read(paths, replace(LIMITS, **changes))

    assert [a.reason for a in answers] == [None] * 3 + [reason] + [None] * 3
    assert [a.row for a in answers if a.row] == [expected(path) for path in good]
    assert len(starts) == 3  # the first, one more try, and one for those after it


@pytest.mark.usefixtures("misbehaving")
def test_an_image_is_tried_once_more_before_it_is_left_out(tmp_path: Path, starts: list[int]):
    paths = [picture(tmp_path / name) for name in ("a.png", "once-.png", "z.png")]

    answers = read(paths)

    assert [a.row for a in answers] == [expected(path) for path in paths]
    assert len(starts) == 2


@pytest.mark.usefixtures("misbehaving")
def test_an_image_that_dies_while_its_header_is_read_is_left_out(tmp_path: Path):
    paths = [picture(tmp_path / name) for name in ("a.png", "abort-.png", "z.png")]

    with ImageReader(LIMITS) as reader:
        reasons = [a.reason for a in reader.sizes(paths, fit="crop")]

    assert reasons == [None, "decoder_died", None]


@pytest.mark.usefixtures("misbehaving")
def test_what_a_library_prints_is_no_answer(tmp_path: Path):
    path = picture(tmp_path / "chatty-.png")

    assert read([path])[0].row == expected(path)


@pytest.mark.usefixtures("misbehaving")
def test_the_process_that_decodes_writes_no_file(tmp_path: Path):
    (answer,) = read([picture(tmp_path / "writes-.png")])

    assert answer.reason == "decoder_died"
    assert not (tmp_path / "writes-.core").read_bytes()


@pytest.mark.usefixtures("misbehaving")
def test_memory_that_runs_out_with_every_image_is_a_matter_of_the_machine(tmp_path: Path):
    """The kernel kills with SIGKILL when memory is short; nothing an image does is that."""
    good, kill = picture(tmp_path / "a.png"), picture(tmp_path / "kill-.png")
    abort = picture(tmp_path / "abort-.png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_reader, "_KILLED_IN_A_ROW", 2)
        with pytest.raises(
            ResourceError, match=r"killed with each of the last 2 images; exp.*max_"
        ):
            read([kill, kill])
        reasons = [a.reason for a in read([kill, good, kill, abort, abort])]

    assert reasons == ["decoder_died", None, *["decoder_died"] * 3]


@pytest.mark.parametrize(
    ("child", "how"),
    [
        (("-c", "import sys; sys.exit(7)"), "ended with code 7"),
        (("-c", "import os; os.abort()"), "ended by SIGABRT"),
        (("-c", "print('hello, here is no answer but many letters')"), "ended with code 0|said"),
    ],
)
def test_a_process_that_never_starts_is_one_line_and_not_a_thousand_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[int], child: object, how: str
):
    monkeypatch.setattr(_reader_process, "CHILD", child)
    path = picture(tmp_path / "a.png")

    with pytest.raises(ResourceError, match=f"the process that decodes ({how}) before") as caught:
        read([path] * 1000)

    assert "\n" not in str(caught.value)
    assert len(starts) == 2


def test_without_pillow_the_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = (
        "import sys; sys.modules['PIL'] = None\n"
        "from edge_stl.images._reader_main import serve; serve(sys.argv[1:])"
    )
    monkeypatch.setattr(_reader_process, "CHILD", ("-c", program))

    with pytest.raises(UsageError, match="reading image files needs Pillow: pip install"):
        read([picture(tmp_path / "a.png")])


def test_no_process_at_all_is_a_matter_of_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def none_left(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(_reader_process.subprocess, "Popen", none_left)
    monkeypatch.setattr(_reader_process, "CHILD", ("-c", "pass"))

    with pytest.raises(ResourceError, match=r"no process can be started .Resource temporarily"):
        read([picture(tmp_path / "a.png")])


def test_a_module_in_the_folder_of_the_images_is_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[int]
):
    path = picture(tmp_path / "a.png")
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)

    assert read([path])[0].row == expected(path)
    assert len(starts) == 1


@pytest.mark.usefixtures("misbehaving")
def test_who_waits_for_an_image_can_be_stopped(tmp_path: Path):
    asked = 0

    def poll() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise Interrupted("stopped")

    began = time.monotonic()
    with ImageReader(LIMITS, poll=poll) as reader:
        rows = reader.rows([picture(tmp_path / "sleep-.png")], side=8, channels=3, fit="crop")
        with pytest.raises(Interrupted, match="stopped"):
            next(rows)
    assert time.monotonic() - began < 30  # not the 1000 s that it sleeps


@pytest.mark.usefixtures("misbehaving")
def test_a_reader_that_is_left_in_the_middle_leaves_no_process(tmp_path: Path, starts: list[int]):
    paths = [picture(tmp_path / "a.png"), picture(tmp_path / "sleep-.png")]

    with ImageReader(LIMITS) as reader:
        next(reader.rows(paths, side=8, channels=3, fit="crop"))

    (pid,) = starts
    with pytest.raises(ProcessLookupError, match="No such process"):
        os.kill(pid, 0)


_AGENT = """
import sys
from edge_stl.images import ImageReader, ReadLimits, _reader, _reader_process
_reader_process.CHILD = (sys.argv[1],)

def poll():
    print(reader._process._process.pid, flush=True)

with ImageReader(ReadLimits.of(max_pixels=10**6, max_bytes=10**6), poll=lambda: None) as reader:
    rows = reader.rows([sys.argv[2], sys.argv[3]], side=8, channels=3, fit="crop")
    next(rows)
    reader._process.poll = poll
    next(rows)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_process_is_gone_within_two_seconds_of_the_agents_death(tmp_path: Path):
    good, sleeping = picture(tmp_path / "a.png"), picture(tmp_path / "sleep-.png")
    agent = subprocess.Popen(
        [sys.executable, "-c", _AGENT, CHILD, good, sleeping],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    assert agent.stdout is not None
    with agent:
        assert select.select([agent.stdout], [], [], 60)[0]
        pid = int(agent.stdout.readline())
        os.kill(pid, 0)
        agent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 2
    while _runs(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


@pytest.mark.usefixtures("misbehaving")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_stop_are_for_the_agent_to_heed(tmp_path: Path, number: int, starts: list[int]):
    path = picture(tmp_path / "a.png")
    with ImageReader(LIMITS) as reader:
        next(reader.rows([path], side=8, channels=3, fit="crop"))
        os.kill(starts[0], number)
        time.sleep(0.05)
        (answer,) = reader.rows([path], side=8, channels=3, fit="crop")

    assert answer.row == expected(path)
    assert len(starts) == 1


def test_the_limits_of_a_process_are_on_itself(tmp_path: Path):
    if sys.platform != "linux":
        pytest.skip("the limits of another process are told by Linux alone")
    with ImageReader(LIMITS) as reader:
        next(reader.rows([picture(tmp_path / "a.png")], side=8, channels=3, fit="crop"))
        assert reader._process is not None
        pid = reader._process._process.pid
        limits = Path(f"/proc/{pid}/limits").read_text()
        files = sorted(int(p.name) for p in Path(f"/proc/{pid}/fd").iterdir())
        killed_first = Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
    soft = {line[:26].strip(): line[26:47].strip() for line in limits.splitlines()}
    assert soft["Max core file size"] == soft["Max file size"] == "0"
    assert LIMITS.memory < int(soft["Max address space"]) < LIMITS.memory + (1 << 31)
    assert int(soft["Max cpu time"]) <= LIMITS.cpu_seconds + 2 + 60
    assert len(files) == 4  # its pipes, /dev/null and the pipe of answers once more
    assert killed_first == "1000"


@given(
    questions=st.lists(
        st.builds(Question, st.binary(max_size=300), st.integers(0, 9), st.just(3), st.just(1))
    ),
    answers=st.lists(
        st.builds(Answer, st.integers(0, 255), st.integers(0, 9), st.just(2), st.binary())
    ),
    cut=st.integers(1, 50),
)
@settings(max_examples=60, deadline=None)
def test_frames_survive_being_cut_anywhere(
    questions: list[Question], answers: list[Answer], cut: int
):
    for kind, sent in ((Question, questions), (Answer, answers)):
        data = b"".join(frame.frame() for frame in sent)
        buffer, heard = bytearray(), []
        for start in range(0, len(data), cut):
            buffer += data[start : start + cut]
            while (frame := kind.first_of(buffer)) is not None:
                heard.append(frame)
        assert heard == sent
        assert not buffer


def test_more_and_longer_names_than_a_pipe_holds_do_not_block(tmp_path: Path):
    deep = tmp_path
    for _ in range(14):
        deep = deep / ("x" * 250)
    deep.mkdir(parents=True)
    path = picture(deep / "a.png")
    big = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    Image.fromarray(big).save(tmp_path / "big.bmp")
    limits = replace(LIMITS, max_bytes=10**6)

    with ImageReader(limits) as reader:
        sizes = list(reader.sizes([path] * 300, fit="crop"))
        rows = list(reader.rows([tmp_path / "big.bmp"] * 30, side=512, channels=3, fit="crop"))

    assert {(a.width, a.height) for a in sizes} == {(34, 21)}
    assert {a.row for a in rows} == {big.tobytes()}


def test_the_limits_follow_the_plan():
    assert ReadLimits.of(max_pixels=100_000_000, max_bytes=100_000_000) == ReadLimits(
        100_000_000, 100_000_000, (64 << 20) + 300_000_000 + 3_200_000_000, 30, 90.0
    )
    capped = ReadLimits.of(max_pixels=10**12, max_bytes=1)
    assert capped.memory < 6 * 10**9  # Pillow refuses more pixels than these by itself
    assert capped.cpu_seconds == 45


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["webp", "rgba.png", "turned.jpg", "grey16.png", "deflate.tif"])
def test_the_memory_limit_is_enough_for_the_most_that_a_plan_allows(tmp_path: Path, kind: str):
    """Most spare memory is taken away here, so that the formula itself is what must be enough."""
    height, width = 2000, 2500
    grey = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    image = Image.fromarray(np.stack([grey, grey, 255 - grey, grey], axis=-1))
    path = tmp_path / kind
    exif = Image.Exif()
    exif[0x0112] = 6
    match kind:
        case "webp":
            image.save(path, "WEBP", lossless=True, quality=0, method=0)
        case "rgba.png":
            image.save(path, exif=exif, compress_level=1)
        case "turned.jpg":
            image.convert("CMYK").save(path, progressive=True, exif=exif)
        case "grey16.png":
            Image.fromarray(grey.astype(np.uint16) * 257).save(path, compress_level=1)
        case _:
            image.save(path, compression="tiff_adobe_deflate")
    limits = ReadLimits.of(max_pixels=height * width, max_bytes=path.stat().st_size)
    tight = replace(limits, memory=limits.memory - _reader_limits._SPARE + (12 << 20))
    enough = limits.memory - _reader_limits._SPARE
    assert enough >= 32 * height * width

    with ImageReader(tight) as reader:
        (answer,) = reader.rows([path], side=97, channels=3, fit="crop")

    assert answer.reason is None


def test_running_out_of_memory_is_an_answer(monkeypatch: pytest.MonkeyPatch):
    def none(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(_reader_main, "decode", none)

    assert _reader_main.read(Question(b"a", 8, 3, 0), 1, 1).code == 252
