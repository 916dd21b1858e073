"""Too little memory: refused with the number that does, or told as what it is; nothing is lost."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl import _parent
from edge_stl.errors import ran_out_of_memory
from edge_stl.plan import new_plan, plan_toml


pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CLASSES = ["bus", "car", "van"]
LINE = re.compile(
    r"edge-stl: .*out of memory|edge-stl: .*memory runs out|edge-stl: .*as it may when"
)


@pytest.fixture(scope="module")
def here(pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of 96 pixels and a plan with batches of 24 of them."""
    folder = tmp_path_factory.mktemp("here")
    pictures(folder / "photos", CLASSES, count=10, side=96)
    plan = new_plan(
        classes=CLASSES, resolution=96, levels=1, branches="all", network="cnn-s", epochs=1
    )
    text = plan_toml(plan).replace("[training]\n", "[training]\nbatch_size = 24\n")
    (folder / "plan.toml").write_text(text)
    return folder


def agent(here: Path, name: str, *more: str, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run ``edge-stl train`` as a user does, into folders of its own."""
    command = [sys.executable, "-m", "edge_stl", "train", "plan.toml", "photos", "--json"]
    command += ["-o", f"out-{name}", "--work", f"work-{name}", "--box", "cam1", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop(_parent.ALONE, None)
    return subprocess.run(
        [*command, *more],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        **changes,
    )


def row(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    (only,) = json.loads(done.stdout)["files"]
    answer: dict[str, Any] = only
    return answer


@pytest.fixture(scope="module")
def whole(here: Path) -> str:
    """The digest of a run with all the memory of the machine."""
    digest: str = row(agent(here, "plain"))["sha256"]
    return digest


def test_the_number_that_a_refusal_names_will_do_and_the_run_stays_within_it(here: Path):
    refused = agent(here, "small", "--max-memory", "100M")
    assert refused.returncode == 20
    assert refused.stdout == ""
    line = r"needs about (\d+) MB with one image at a time; .* 100 \(--max-memory\)\. Use --max-mem"
    found = re.search(line, refused.stderr)
    assert found is not None, refused.stderr
    assert not list((here / "work-small" / "all").glob("*"))

    enough = int(found[1])
    done = row(agent(here, "small", "--max-memory", f"{enough}M"))
    assert done["peak_rss_mb"] <= enough
    assert enough < 1.5 * done["peak_rss_mb"]


def test_a_limit_that_is_no_limit_changes_no_byte(here: Path, whole: str):
    ample = row(agent(here, "ample", "--max-memory", "4G"))
    assert ample["sha256"] == whole
    assert ample["peak_rss_mb"] <= 4000


def limited(megabytes: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 10**6, megabytes * 10**6))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return limit


def ends_cleanly(here: Path, megabytes: int, whole: str) -> None:
    """Assert that a run under an address limit is done, or says in one line that it could not."""
    name = f"as{megabytes}"
    ran = agent(here, name, preexec_fn=limited(megabytes))
    assert "Traceback" not in ran.stderr
    own = [line for line in ran.stderr.splitlines() if line.startswith("edge-stl: ")]
    if ran.returncode == 0:
        assert own == []
    else:
        assert ran.returncode == 20, ran.stderr
        assert len(own) == 1
        assert LINE.match(own[0]), own
        assert ran.stdout == ""
        ran = agent(here, name)  # with all the memory of the machine
    assert row(ran)["sha256"] == whole


@pytest.mark.skipif(sys.platform != "linux", reason="address limits as Linux has them")
@pytest.mark.parametrize("megabytes", [512, 1187])
def test_too_little_memory_is_said_in_a_line_and_nothing_is_lost(
    here: Path, megabytes: int, whole: str
):
    ends_cleanly(here, megabytes, whole)


@pytest.mark.skipif(not os.environ.get("EDGE_STL_NIGHT"), reason="make test-night")
@pytest.mark.parametrize("megabytes", [400, 557, 714, 871, 1029, 1186, 1343, 1500])
def test_eight_limits_end_cleanly(here: Path, megabytes: int, whole: str):
    ends_cleanly(here, megabytes, whole)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("std::bad_alloc"), True),
        (ImportError("libtorch.so: failed to map segment from shared object"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_what_is_about_memory_is_known_also_where_it_is_the_cause(error: Exception, memory: bool):
    assert ran_out_of_memory(error) == memory
    outer = ImportError("numpy could not be imported")
    outer.__cause__ = error
    assert ran_out_of_memory(outer) == memory


# -- the parent ---------------------------------------------------------------------------------

_CHILD = """
import os, signal, sys, time
from edge_stl._parent import supervised
supervised(["train"])
print(os.getppid(), os.getpid(), flush=True)
{0}
"""


def child(body: str, **changes: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop(_parent.ALONE, None)
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(body)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **changes,
    )


def pids(process: subprocess.Popen[str]) -> tuple[int, int]:
    assert process.stdout is not None
    parent, own = map(int, process.stdout.readline().split())
    assert parent == process.pid != own
    return parent, own


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS])
def test_a_death_for_want_of_memory_is_one_line_and_exit_code_20(number: signal.Signals):
    process = child(f"os.kill(os.getpid(), {int(number)})")
    pids(process)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 20
    assert LINE.match(said), said
    assert "Its last checkpoint is kept" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("code", [0, 1, 30])
def test_the_exit_code_is_that_of_the_agent(code: int):
    process = child(f"sys.exit({code})")
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, "")


def test_another_signal_ends_the_parent_as_it_ended_the_agent():
    process = child("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGTERM, "")


_COUNT = """
seen = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: seen.append(number))
print("ready", flush=True)
until = time.monotonic() + 60
while not seen and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.3)
print(*seen, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_parent_reaches_the_agent_once(number: signal.Signals):
    process = child(_COUNT)
    pids(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=100)
    assert out.split() == [str(int(number))]
    assert process.returncode == 0


def test_a_ctrl_c_of_a_terminal_reaches_the_agent_once():
    """The terminal tells all of its foreground group; the parent must not tell it again."""
    import pty

    main_end, terminal = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop(_parent.ALONE, None)
    takes = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    with subprocess.Popen(
        [sys.executable, "-c", takes + _CHILD.format(_COUNT)],
        env=environment,
        stdin=terminal,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        pids(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.write(main_end, b"\x03")
        out, _ = process.communicate(timeout=100)
    os.close(main_end)
    os.close(terminal)
    assert out.split() == [str(int(signal.SIGINT))]


def test_the_agent_does_not_outlive_its_parent():
    process = child("time.sleep(600)")
    _, own = pids(process)
    process.kill()
    process.communicate(timeout=60)
    until = time.monotonic() + 20
    while Path(f"/proc/{own}").exists() and time.monotonic() < until:
        if " Z " in Path(f"/proc/{own}/stat").read_text():
            return  # dead, and nobody has looked yet
        time.sleep(0.05)
    assert not Path(f"/proc/{own}").exists()


@pytest.mark.parametrize(
    ("arguments", "agent"),
    [
        (["train", "plan.toml", "photos"], "train"),
        (["-q", "train"], "train"),
        (["cotrain", "full", "plan.toml", "photos"], "cotrain"),
        (["train", "--jobs", "f"], None),
        (["train", "--jobs=f"], None),
        (["train", "--help"], None),
        (["merge", "train"], None),
        ([], None),
    ],
)
def test_only_one_agent_of_ones_own_has_a_parent(arguments: list[str], agent: str | None):
    assert _parent._agent(arguments) == agent


def test_who_is_supervised_already_is_not_forked():
    environment = os.environ | {"PYTHONPATH": str(ROOT), _parent.ALONE: "1"}
    code = "import os; from edge_stl._parent import supervised; a = os.getpid(); "
    code += "supervised(['train']); assert os.getpid() == a"
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


def test_the_parent_is_light():
    """What it holds is what is imported before it forks."""
    code = "import sys; from edge_stl.cli import console; import edge_stl._parent; "
    code += "print(*({'numpy', 'torch', 'typer', 'rich', 'pydantic'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
