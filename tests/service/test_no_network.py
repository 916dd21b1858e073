"""No network anywhere: the whole default flow with sockets forbidden, children included."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_stl.cli import main


ROOT = Path(__file__).parents[2]
CLASSES = ["bus", "car"]

# Python imports `sitecustomize` from its path at every start: in the processes of the agent too.
# The hook cannot be taken off again. A socket that libraries try to make within a `try` is written
# down as well, so that nothing is hidden by whoever catches the error.
HOOK = """
import os, sys

def forbid(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        with open(os.environ["SOCKETS_SEEN"], "a") as seen:
            seen.write(f"{event} {arguments[1:]} {sys.argv[:4]}\\n")
        raise RuntimeError(f"no network here: {event}")

with open(os.environ["HOOKS_SEEN"], "a") as seen:
    seen.write(f"{os.getpid()} {' '.join(sys.orig_argv[1:5])}\\n")
sys.addaudithook(forbid)
"""


class Sealed:
    """A folder whose processes may make no socket."""

    def __init__(self, folder: Path, *, unshared: bool) -> None:
        self.folder = folder
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        self.sockets, self.hooks = folder / "sockets", folder / "hooks"
        self._unshare = ["unshare", "-n"] if unshared else []
        self._environment = os.environ | {
            "PYTHONPATH": f"{folder / 'hook'}:{ROOT}",
            "SOCKETS_SEEN": str(self.sockets),
            "HOOKS_SEEN": str(self.hooks),
            "XDG_STATE_HOME": str(folder / "state"),
            "OMP_NUM_THREADS": "1",
        }

    def python(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self._unshare, sys.executable, *arguments],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def verbs(self, *calls: list[str]) -> None:
        """Run several verbs in one process, which is quicker."""
        program = f"from edge_stl.cli import main; print([main(c) for c in {calls!r}])"
        done = self.python("-c", program)
        assert done.stdout.splitlines()[-1] == str([0] * len(calls)), done.stderr

    def edge_stl(self, *arguments: str) -> str:
        done = self.python("-m", "edge_stl", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def may_unshare() -> bool:
    """Return whether this user may make a network of its own with nothing in it."""
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    # Where it is not permitted, the audit hook alone forbids sockets; a test below says so.
    return Sealed(tmp_path, unshared=may_unshare())


@pytest.mark.slow
def test_the_whole_way_opens_no_socket(sealed: Sealed, pictures: Callable[..., Path]):
    photos = pictures(sealed.folder / "photos", CLASSES, count=4, side=16)
    plan = ["--classes", ",".join(CLASSES), "--resolution", "16", "--network", "mlp-s"]
    plan += ["--levels", "1", "--epochs", "1"]
    common = ["plan.toml", "photos", "-o", "out", "--threads", "1"]
    sealed.verbs(
        ["plan", "new", *plan, "-o", "plan.toml"], ["train", *common, "--box", "cam01", "-q"]
    )
    once = ["--once", "--check-every", "1s", "--metrics-file", "m.prom", "--json"]
    done = json.loads(sealed.edge_stl("agent", "watch", *common, "--box", "cam02", *once))
    assert done["trainings"] == 1
    files = sorted(map(str, (sealed.folder / "out").iterdir()))
    assert len(files) == 2
    sealed.verbs(
        ["merge", *files, "-o", "ensemble.onnx", "-q"],
        ["predict", "ensemble.onnx", str(photos / "bus" / "000.png")],
        ["evaluate", "ensemble.onnx", "photos"],
        ["inspect", "ensemble.onnx"],
        ["check", "ensemble.onnx"],
    )

    seen = sealed.sockets.read_text() if sealed.sockets.exists() else ""
    assert seen == ""
    started = sealed.hooks.read_text()
    assert "-m edge_stl train" in started, "the agent of the service was sealed as well"


@pytest.mark.parametrize(
    "line",
    [
        "socket.socket()",
        "socket.getaddrinfo('localhost', 80)",
        "socket.create_connection(('127.0.0.1', 9), 1)",
        "urllib.request.urlopen('http://127.0.0.1:9')",
    ],
)
def test_a_deliberate_socket_is_caught_in_a_process_and_in_its_child(sealed: Sealed, line: str):
    own = f"import socket, urllib.request\ntry:\n    {line}\nexcept Exception:\n    pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {own!r}])"

    for program in (own, child):
        sealed.sockets.unlink(missing_ok=True)
        assert sealed.python("-c", program).returncode == 0
        assert "socket." in sealed.sockets.read_text()


def test_in_an_empty_network_nothing_answers(sealed: Sealed):
    if not may_unshare():
        pytest.skip("unshare -n is not permitted here")
    names = subprocess.run(
        ["unshare", "-n", "cat", "/proc/net/dev"], capture_output=True, text=True, check=True
    ).stdout

    assert [line.split(":")[0].strip() for line in names.splitlines()[2:]] == ["lo"]
    assert sealed.sockets.exists() is False


def test_systemd_s_socket_is_the_one_that_the_service_makes(sealed: Sealed):
    """Where NOTIFY_SOCKET asks for it, the hook sees it: the search would find a socket."""
    program = (
        "import os; os.environ['NOTIFY_SOCKET'] = '/nowhere'\n"
        "from edge_stl.service import Notifier\n"
        "Notifier().send('READY=1')"
    )
    done = sealed.python("-c", program)

    assert "no network here: socket.__new__" in done.stderr
    assert sealed.python("-c", program.replace("/nowhere", "")).returncode == 0


def test_this_command_line_has_no_option_for_a_network(capsys: pytest.CaptureFixture[str]):
    assert main(["agent", "watch", "--help"]) == 0
    assert not {"--url", "--host", "--port"} & set(capsys.readouterr().out.split())
