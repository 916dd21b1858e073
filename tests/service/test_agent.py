"""`edge-stl agent` from outside: real training, real signals, and what a newcomer types wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_stl.cli import _agent, main
from edge_stl.plan import new_plan, plan_toml


ROOT = Path(__file__).parents[2]
CLASSES = ["bus", "car"]
PATIENCE = 240.0
Schema = Callable[[Any, str], None]


@pytest.fixture
def here(
    tmp_path: Path, pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder with a plan and photos; whatever was started there is gone afterwards."""
    plan = new_plan(classes=CLASSES, resolution=8, levels=1, network="mlp-s", epochs=1)
    (tmp_path / "plan.toml").write_text(plan_toml(plan))
    pictures(tmp_path / "photos", CLASSES, count=4, side=8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def watch_arguments(*options: str) -> list[str]:
    return [
        "agent", "watch", "plan.toml", "photos", "-o", "outbox", "--box", "cam07", "--work", "work",
        "--threads", "1", *options,
    ]  # fmt: skip


class Service:
    """`edge-stl agent watch` in a process of its own."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_stl", *watch_arguments(*options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, Any]] = []

    def until(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]
        raise AssertionError(f"no {event} in {self.log}")

    def end(self) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        self.log += map(json.loads, err.splitlines())
        return self.process.returncode, out


@pytest.fixture
def serve(here: Path) -> Iterator[Callable[..., Service]]:  # noqa: ARG001
    services: list[Service] = []

    def start(*options: str) -> Service:
        services.append(Service(*options))
        return services[-1]

    yield start
    for service in services:
        service.process.kill()
        service.process.wait()
        for end in (service.process.stdout, service.process.stderr):
            if end is not None:
                end.close()


def agents_of(folder: Path) -> list[int]:
    """Return the processes that train in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"\0train\0" in words and str(folder).encode() in words:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_a_service_trains_fills_its_outbox_and_stops_when_asked(
    serve: Callable[..., Service], here: Path, assert_schema: Schema
):
    service = serve(
        "--metrics-file", "edge-stl.prom", "--every", "1", "--check-every", "1s", "--json"
    )
    row = service.until("trained")
    assert [p.name for p in (here / "outbox").iterdir()] == [Path(row["file"]).name]
    service.until("waiting")
    service.process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    code, out = service.end()

    assert code == 30
    assert time.monotonic() - asked < 50
    document = json.loads(out)
    assert_schema(document, "agent-watch")
    assert document["files"][0]["sha256"] == row["sha256"]
    assert service.log[-1]["event"] == "stopped"
    assert "edge_stl_trainings_total 1\n" in (here / "edge-stl.prom").read_text()
    assert [line["event"] for line in service.log if line["level"] != "info"] == []
    assert agents_of(here) == []


@pytest.mark.slow
def test_sigterm_in_a_training_leaves_a_checkpoint_and_the_next_service_goes_on(
    serve: Callable[..., Service], here: Path
):
    service = serve("--epochs", "1000000", "--check-every", "1s")
    service.until("training")
    checkpoint = next(iter([here / "work" / "d1"]))
    until = time.monotonic() + PATIENCE
    while not checkpoint.is_dir() and time.monotonic() < until:
        time.sleep(0.05)
    service.process.send_signal(signal.SIGTERM)
    code, _ = service.end()
    assert code == 30
    assert service.log[-2]["event"] == "paused"
    assert (checkpoint / "checkpoint.safetensors").is_file()

    again = serve("--epochs", "1000000", "--check-every", "1s")
    assert again.until("training")["resumed"] is True
    again.process.kill()
    again.process.wait()
    until = time.monotonic() + PATIENCE
    while agents_of(here) and time.monotonic() < until:
        time.sleep(0.1)
    assert agents_of(here) == [], "the agent dies with its service"


@pytest.mark.slow
def test_an_agent_that_is_killed_does_not_end_the_service(
    serve: Callable[..., Service], here: Path
):
    service = serve("--epochs", "1000000", "--check-every", "1s")
    service.until("training")
    until = time.monotonic() + PATIENCE
    while not agents_of(here) and time.monotonic() < until:
        time.sleep(0.05)
    for process in agents_of(here):
        os.kill(process, signal.SIGKILL)

    failed = service.until("failed")
    assert failed["pause"] == 60
    assert service.process.poll() is None


def test_what_is_wrong_is_one_line_and_its_exit_code(
    here: Path, capsys: pytest.CaptureFixture[str]
):
    def said(*arguments: str) -> tuple[int, str]:
        code = main(list(arguments))
        return code, capsys.readouterr().err

    plan, base = "plan.toml", ["-o", "outbox", "--box", "cam07", "--work", "work"]
    code, err = said("agent", "watch", plan, "fotos", *base)
    assert (code, err.count("is no folder")) == (10, 1)
    code, err = said("agent", "watch", "plan", "photos", *base)
    assert (code, err.count("\n")) == (2, 1)
    code, err = said("agent", "watch", plan, "photos", "-o", "outbox", "--work", "elsewhere")
    assert (code, "--box is needed" in err) == (2, True)
    code, err = said("agent", "watch", plan, "photos", *base, "--hours", "night")
    assert (code, "--hours night: 'night' is no range" in err) == (2, True)
    for text in ("0s", "1d", "", "-1s", "99h99", "9999999h"):
        code, err = said("agent", "watch", plan, "photos", *base, "--check-every", text)
        assert (code, f"--check-every {text}: is no time" in err) == (2, True), text
    code, err = said("agent", "watch", plan, "photos", *base, "--every", "0")
    assert (code, "--every" in err) == (2, True)
    assert not (here / "outbox").exists()


@pytest.fixture
def install(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run install-service with a folder of units that is not the machine's."""
    (here / "units").mkdir()
    monkeypatch.setattr(_agent, "_UNITS", here / "units")

    def call(*options: str, box: str | None = "cam07") -> tuple[int, str, str]:
        capsys.readouterr()
        base = ["plan.toml", "photos", "-o", "outbox", *(["--box", box] if box else [])]
        code = main(["agent", "install-service", *base, "--user", "daemon", *options])
        return code, *capsys.readouterr()

    return call


def test_a_dry_run_prints_the_unit_with_absolute_paths_and_writes_nothing(
    install: Callable[..., tuple[int, str, str]], here: Path
):
    code, out, err = install("--dry-run", "--hours", "22-6", "--every", "5")

    assert (code, err) == (0, "")
    assert f'"--out={here}/outbox" "--work=/var/lib/edge-stl/work" "--box=cam07"' in out
    assert f'"--every=5" "--hours=22-6" "--" "{here}/plan.toml" "{here}/photos"\n' in out
    assert "User=daemon\n" in out
    assert list((here / "units").iterdir()) == []


def test_the_unit_s_own_command_line_is_understood(
    install: Callable[..., tuple[int, str, str]], here: Path, assert_schema: Schema
):
    code, out, _ = install(
        "--dry-run", "--json", "--metrics-file", "metrics/e.prom", "--threads", "2",
        "--device", "auto", "--name", "gate-7", "--memory-max", "1500M",
    )  # fmt: skip
    document = json.loads(out)
    assert code == 0
    assert_schema(document, "agent-install-service")
    unit = document["unit"]
    assert "PrivateDevices=no\n" in unit
    assert "MemoryMax=1500M\n" in unit
    assert f'ReadWritePaths="{here}/outbox" "{here}/metrics"\n' in unit
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    arguments = [word.strip('"') for word in command.split(" ")][5:]
    given, params = _agent._watch_arguments(arguments)
    assert {"threads", "device", "metrics_file", "box"} <= given
    assert params["work"] == Path("/var/lib/gate-7/work")
    assert params["images"] == here / "photos"


def test_root_writes_the_unit_and_says_what_comes_next(
    install: Callable[..., tuple[int, str, str]], here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    code, _, err = install()
    assert (code, "install -d -o daemon" in err) == (20, True)
    (here / "outbox").mkdir()
    code, out, _ = install()
    unit = here / "units" / "edge-stl.service"
    assert code == 0
    assert out.splitlines() == [
        str(unit),
        "Next: sudo systemctl daemon-reload && sudo systemctl enable --now edge-stl.service",
    ]
    assert install("--every", "7")[0] == 0, "its own unit is replaced"
    assert "--every=7" in unit.read_text()
    unit.write_text("[Service]\nExecStart=/usr/bin/other\n")
    code, _, err = install()
    assert (code, "was not written by edge-stl" in err) == (20, True)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, _, err = install("--name", "other")
    assert (code, "only root may write it" in err) == (20, True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--evry", "3"], "No such option: --evry"),
        (["--name", "a/b"], "--name 'a/b': expected lower-case letters"),
        (["--name", "x\nUser=root"], "expected lower-case letters"),
        (["--memory-max", "lots"], "--memory-max 'lots': is no size"),
        (["--memory-max", "1G\nUser=root"], "is no size"),
        (["--hours", "22-6\n\nUser=root"], "--hours"),
        (["--user", "no-such-user"], "there is no such user"),
        (["--user", "x\nUser=root"], "there is no such user"),
        (["--once"], "--once and --json are for a person"),
        (["--epochs", "none"], "--epochs"),
        (["extra"], "unexpected extra argument"),
        (["--work", "w\nUser=root"], "cannot stand in a systemd unit"),
    ],
)
def test_a_unit_that_would_not_work_is_refused(
    install: Callable[..., tuple[int, str, str]], options: list[str], sentence: str
):
    code, out, err = install("--dry-run", *options)

    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_unit_needs_a_box_and_a_user_that_is_not_root_by_chance(
    install: Callable[..., tuple[int, str, str]], capsys: pytest.CaptureFixture[str]
):
    code, _, err = install("--dry-run", box=None)
    assert (code, "--box is needed" in err) == (2, True)
    given = ["plan.toml", "photos", "-o", "outbox", "--box", "cam07", "--dry-run"]
    if os.geteuid() == 0:
        assert main(["agent", "install-service", *given]) == 2
        assert "belongs to root" in capsys.readouterr().err
    code, _, err = install("--dry-run", "--user", "root")
    assert code == 0
