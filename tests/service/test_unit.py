"""The systemd unit says what was asked, whatever stands in a path, and systemd takes it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from edge_stl.errors import UsageError
from edge_stl.service import Unit, unit_text


WORDS = st.text(
    st.characters(min_codepoint=32, exclude_categories=["C", "Z"], include_characters=" "),
    min_size=1,
)


def settings(text: str) -> dict[str, str]:
    """Return the settings of a unit file; a line is one setting, or a comment, or a section."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        if not line or line.startswith(("#", "[")):
            continue
        name, equals, value = line.partition("=")
        assert equals, line
        assert re.fullmatch("[A-Za-z]+", name), line
        assert not line.endswith("\\"), "it would go on in the next line"
        found[name] = value
    return found


def words(value: str, *, command: bool = False) -> list[str]:
    """Split as systemd.syntax(7) says: quotes, C escapes, specifiers; in commands variables."""
    found, current, quoted, i = [], None, False, 0
    while i < len(value):
        c = value[i]
        if c == '"':
            quoted, current = not quoted, current or ""
        elif c == " " and not quoted:
            if current is not None:
                found.append(current)
            current = None
        else:
            if c in {"\\", "%"} or (c == "$" and command):
                i += 1
                assert value[i] == (value[i] if c == "\\" else c), f"{c} is special in {value}"
                assert c != "\\" or value[i] in '\\"'
                c = value[i]
            current = (current or "") + c
        i += 1
    assert not quoted
    return [*found, *([] if current is None else [current])]


def unit(*, path: str = "/srv/photos", argument: str = "--every=3", **facts: object) -> Unit:
    given = {
        "name": "edge-stl",
        "user": "cam",
        "arguments": ("agent", "watch", argument),
        "reads": (Path(path),),
        "writes": (Path("/srv/out"),),
    }
    return Unit(**(given | facts))  # type: ignore[arg-type]


@given(WORDS, WORDS)
@example("50% of $HOME", 'a "b" \\ ${X} %h %%')
@example("\\x20", "a\\")
def test_every_path_and_argument_comes_back_as_it_was(path: str, argument: str):
    found = settings(unit_text(unit(path=f"/srv/{path}", argument=argument), python="/usr/bin/py"))

    assert words(found["ExecStart"], command=True) == [
        "/usr/bin/py", "-m", "edge_stl", "agent", "watch", argument,
    ]  # fmt: skip
    assert words(found["ReadOnlyPaths"]) == [str(Path(f"/srv/{path}"))]


@pytest.mark.parametrize("bad", ["a\nUser=root", "a\rb", "a\0b", "a\x1bb", "a\u2028b", "a\udcffb"])
@pytest.mark.parametrize("where", ["path", "argument", "memory_max"])
def test_nothing_is_injected_by_a_newline(bad: str, where: str):
    facts = {where: f"/srv/{bad}"}
    with pytest.raises(UsageError, match="cannot stand in a systemd unit"):
        unit_text(unit(**facts))  # type: ignore[arg-type]


def test_it_has_no_network_no_privileges_and_writes_its_own_folders_alone():
    found = settings(unit_text(unit()))

    assert found["PrivateNetwork"] == "yes"
    assert found["RestrictAddressFamilies"] == "AF_UNIX"
    assert found["ProtectSystem"] == "strict"
    assert found["ReadWritePaths"] == '"/srv/out"'
    assert found["CapabilityBoundingSet"] == ""
    assert found["NoNewPrivileges"] == "yes"
    assert found["OOMPolicy"] == "continue", "an agent without memory does not end the service"
    assert found["SuccessExitStatus"] == "30"
    assert found["KillMode"] == "mixed", "the service asks its agent to stop, nobody else"
    assert "MemoryDenyWriteExecute" not in found


def test_devices_are_there_for_a_gpu_alone():
    assert settings(unit_text(unit()))["PrivateDevices"] == "yes"
    assert settings(unit_text(unit(gpu=True)))["PrivateDevices"] == "no"


@pytest.mark.parametrize(
    ("path", "home", "temporary"),
    [
        ("/srv/photos", "yes", "yes"),
        ("/home/me/photos", "read-only", "yes"),
        ("/var/tmp/photos", "yes", "no"),  # noqa: S108
        ("/homely/photos", "yes", "yes"),
    ],
)
def test_images_in_a_home_or_in_tmp_stay_readable(
    path: str, home: str, temporary: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.prefix", "/usr")
    monkeypatch.setattr("edge_stl.service._unit.__file__", "/usr/lib/edge_stl/service/_unit.py")
    found = settings(unit_text(unit(path=path), python="/usr/bin/python3"))

    assert (found["ProtectHome"], found["PrivateTmp"]) == (home, temporary)


def test_a_python_that_systemd_would_misread_is_refused():
    with pytest.raises(UsageError, match=r"holds '\$'"):
        unit_text(unit(), python="/opt/$x/python")


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine"
)


@needs_systemd
@pytest.mark.parametrize("path", ["/srv/photos", '/srv/my "best" 50% $HOME \\ photos'])
def test_systemd_takes_the_unit(tmp_path: Path, path: str):
    file = tmp_path / "edge-stl.service"
    file.write_text(unit_text(unit(path=path, argument=f"--x={path}", user="daemon")))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_little_to_blame(tmp_path: Path):
    file = tmp_path / "edge-stl.service"
    file.write_text(unit_text(unit()))
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            "--threshold=25",
            str(file),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overall exposure level" in done.stdout


@needs_systemd
def test_systemd_does_find_what_is_wrong(tmp_path: Path):
    file = tmp_path / "edge-stl.service"
    file.write_text(unit_text(unit()).replace("Type=notify", "Type=nonsense\nReadOnlyPaths=photos"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert "nonsense" in done.stderr
