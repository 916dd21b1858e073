"""Doctor reads a machine below a root: every kind of machine can be shown to it."""

import datetime as dt
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.doctor import Check, _disk, worst
from device_agent.doctor._clock import clock_check, clock_synchronized
from device_agent.doctor._disk import Space, disk_check
from device_agent.doctor._limits import cores_check, memory_check
from device_agent.doctor._machine import (
    Machine,
    container_check,
    machine_check,
    python_check,
    this_machine,
    torch_command,
)
from device_agent.doctor._thermal import thermal_check


ROOMY = Space(free=10**11, files=10**6)
Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write files of a machine below a root: their path with '/' as the name, their text."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "root"

    return write


@pytest.fixture(autouse=True)
def _no_disk_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a busy machine makes of 4 MiB is not what these tests are about."""
    monkeypatch.setattr(_disk, "SLOW", 0.0)


def machine(**changes: object) -> Machine:
    plain = {
        "architecture": "aarch64", "bits": 64, "board": "", "l4t": None, "nvidia": False,
        "container": None,
    }  # fmt: skip
    return Machine(**(plain | changes))  # type: ignore[arg-type]


# -- temperature --------------------------------------------------------------------------------


def zone(number: int, kind: str, celsius: str, **points: str) -> dict[str, str]:
    base = f"sys/class/thermal/thermal_zone{number}"
    files = {f"{base}/type": f"{kind}\n", f"{base}/temp": f"{celsius}\n"}
    for at, (what, value) in enumerate(points.items()):
        files[f"{base}/trip_point_{at}_type"] = f"{what}\n"
        files[f"{base}/trip_point_{at}_temp"] = f"{value}\n"
    return files


def test_a_cool_machine_is_ok_and_its_hottest_zone_is_told(put: Put):
    check = thermal_check(put(zone(0, "cpu", "41000") | zone(1, "gpu", "52500", critical="100000")))
    assert (check.status, check.fix) == ("ok", None)
    assert check.found == "52 °C (gpu), switched off at 100 °C"
    assert check.values["zones"] == 2


def test_a_zone_above_the_point_where_it_is_slowed_is_a_warning(put: Put):
    check = thermal_check(put(zone(0, "cpu", "71000", passive="70000", critical="100000")))
    assert check.status == "warning"
    assert "71 °C (cpu), slowed at 70 °C" in check.found
    assert check.fix is not None


@pytest.mark.parametrize(("celsius", "status"), [("79900", "ok"), ("80000", "warning")])
def test_a_zone_without_points_is_hot_from_80_degrees_on(put: Put, celsius: str, status: str):
    assert thermal_check(put(zone(0, "cpu-thermal", celsius))).status == status


@pytest.mark.parametrize(("celsius", "status"), [("94900", "ok"), ("95000", "error")])
def test_a_zone_about_to_switch_the_machine_off_is_an_error(put: Put, celsius: str, status: str):
    points = {"passive": "99000", "critical": "100000"}
    cooler = zone(1, "gpu", "97000", passive="99000", critical="120000")
    assert thermal_check(put(zone(0, "cpu", celsius, **points) | cooler)).status == status


@pytest.mark.parametrize("text", ["", "hot", "-273000", "0x10", "999999999", "9" * 40, "4.5"])
def test_a_sensor_that_shows_nonsense_is_no_sensor(put: Put, text: str):
    check = thermal_check(put(zone(0, "cpu", text)))
    assert (check.status, check.values["zones"]) == ("note", 0)


def test_the_constant_of_a_jetson_is_no_temperature(put: Put):
    assert thermal_check(put(zone(0, "PMIC-Die", "100000"))).status == "note"


def test_points_that_are_not_used_make_no_machine_hot(put: Put):
    assert thermal_check(put(zone(0, "acpitz", "30000", passive="0", critical="-1000"))).status == (
        "ok"
    )


def test_no_thermal_zone_is_a_note(tmp_path: Path):
    check = thermal_check(tmp_path)
    assert (check.status, check.fix) == ("note", None)


# -- memory and cores ---------------------------------------------------------------------------


def meminfo(total: int, available: int) -> dict[str, str]:
    text = f"MemTotal: {total} kB\nMemAvailable: {available} kB\nSwapFree: 0 kB\nHugePages: 0\n"
    return {"proc/meminfo": text}


def test_memory_is_what_the_machine_has(put: Put):
    check = memory_check(put(meminfo(8_000_000, 6_000_000)))
    assert check.status == "ok"
    assert check.values["total_bytes"] == 8_000_000 * 1024
    assert check.values["available_bytes"] == 6_000_000 * 1024
    assert check.values["limit_bytes"] is None


def test_little_memory_available_is_a_warning_that_shows_who_has_it(put: Put):
    check = memory_check(put(meminfo(8_000_000, 600_000)))
    assert check.status == "warning"
    assert check.fix is not None
    assert check.fix.startswith("ps ")


def test_a_machine_too_small_to_train_is_an_error_that_adds_swap(put: Put):
    check = memory_check(put(meminfo(450_000, 400_000)))
    assert check.status == "error"
    assert "461 MB" in check.found
    assert "swapon" in str(check.fix)


GROUP = "sys/fs/cgroup/box.slice"


def test_the_limit_of_a_control_group_holds_not_the_memory_of_the_host(put: Put):
    root = put(
        meminfo(8_000_000, 6_000_000)
        | {
            "proc/self/cgroup": "0::/box.slice/agent.service\n",
            f"{GROUP}/agent.service/memory.max": "max\n",
            f"{GROUP}/memory.max": "1000000000\n",
            f"{GROUP}/memory.current": "700000000\n",
            f"{GROUP}/memory.stat": "anon 1\ninactive_file 600000000\n",
        }
    )
    check = memory_check(root)
    assert check.values["limit_bytes"] == 1e9
    assert check.values["available_bytes"] == 9e8  # files kept in memory are given up when needed
    assert check.status == "ok"
    assert "the control group allows 1.0 GB" in check.found


@pytest.mark.parametrize(
    ("container", "fix"),
    [("docker", "docker update --memory 2g --memory-swap 2g CONTAINER"), (None, None)],
)
def test_a_control_group_too_small_to_train_is_an_error(
    put: Put, container: str | None, fix: str | None
):
    groups = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "268435456\n"}
    check = memory_check(put(meminfo(8_000_000, 6_000_000) | groups), container=container)
    assert (check.status, check.fix) == ("error", fix)
    assert "268 MB" in check.found


def test_version_1_of_control_groups_is_read_and_its_no_limit_is_none(put: Put):
    files = meminfo(8_000_000, 6_000_000) | {
        "proc/self/cgroup": "9:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert memory_check(put(files)).values["limit_bytes"] is None
    files["sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes"] = "600000000\n"
    files["sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"] = "150000\n"
    files["sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us"] = "100000\n"
    assert memory_check(put(files)).values["limit_bytes"] == 6e8
    assert cores_check(put(files), cores=4).values["quota"] == 1.5


def test_a_quota_below_the_cores_is_a_warning_that_names_the_threads(put: Put):
    groups = {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n"}
    check = cores_check(put(groups), cores=8)
    assert check.status == "warning"
    assert check.fix is not None
    assert check.fix.endswith("--threads 2")


@pytest.mark.parametrize("text", ["max 100000", "900000 100000", "", "5 0", "x y"])
def test_no_quota_or_a_larger_one_is_ok(put: Put, text: str):
    groups = {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": text}
    assert cores_check(put(groups), cores=8).status == "ok"


def test_memory_that_nobody_tells_is_a_note(tmp_path: Path):
    assert memory_check(tmp_path).status == "note"


# -- folders ------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above_and_not_made(tmp_path: Path):
    check = disk_check("work folder", tmp_path / "a" / "b", space=ROOMY, root=tmp_path)
    assert check.status == "ok"
    assert float(str(check.values["bytes_per_second"])) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.EACCES, "sudo mkdir -p "),
        (errno.EROFS, "sudo mount -o remount,rw "),
        (errno.ENOSPC, "df -h "),
        (errno.EIO, None),
    ],
)
def test_a_folder_that_refuses_is_an_error_and_is_left_as_it_was(
    number: int, fix: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    check = disk_check("work folder", tmp_path, space=ROOMY, root=tmp_path)
    assert check.status == "error"
    assert os.strerror(number) in check.found
    assert (check.fix is None) if fix is None else str(check.fix).startswith(fix)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if os.geteuid() == 0:  # root may write everywhere, so the refusal is played

        def refuse(*_: object, **__: object) -> str:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    tmp_path.chmod(0o500)
    check = disk_check("work folder", tmp_path / "w x", space=ROOMY, root=tmp_path)
    tmp_path.chmod(0o700)
    assert check.status == "error"
    assert "cannot be written (Permission denied)" in check.found
    assert f"'{tmp_path}/w x'" in str(check.fix)


@pytest.mark.parametrize(
    ("space", "status"),
    [
        (Space(50_000_000, 10**6), "error"),
        (Space(10**11, 0), "error"),
        (Space(500_000_000, 10**6), "warning"),
        (Space(10**11, 999), "warning"),
        (Space(10**11, None), "ok"),
        (ROOMY, "ok"),
    ],
)
def test_a_full_disk_is_an_error_and_a_nearly_full_one_a_warning(
    space: Space, status: str, tmp_path: Path
):
    check = disk_check("work folder", tmp_path, space=space, root=tmp_path)
    assert check.status == status
    assert (check.fix is None) == (status == "ok")


def test_a_work_folder_in_memory_is_a_warning(put: Put, tmp_path: Path):
    mounts = f"/dev/sda1 / ext4 rw 0 0\ntmpfs {tmp_path}/a\\040b tmpfs rw 0 0\n"
    root = put({"proc/self/mounts": mounts})
    (tmp_path / "a b").mkdir()
    check = disk_check("work folder", tmp_path / "a b" / "w", space=ROOMY, root=root)
    assert check.status == "warning"
    assert "a power cut empties it" in check.found
    beside = disk_check("work folder", tmp_path, space=ROOMY, root=root)
    assert (beside.status, beside.values["file_system"]) == ("ok", "ext4")


def test_a_slow_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_disk, "SLOW", 5e6)
    for speed, status in ((4.9e6, "warning"), (5e6, "ok")):
        monkeypatch.setattr(_disk, "_write", lambda *_, speed=speed: speed)
        assert disk_check("this folder", tmp_path, space=ROOMY, root=tmp_path).status == status


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path):
    (tmp_path / "w").write_text("")
    for folder in (tmp_path / "w", tmp_path / "w" / "x"):
        check = disk_check("work folder", folder, space=ROOMY, root=tmp_path)
        assert check.status == "error"
        assert "w is no folder" in check.found


def test_an_odd_name_stays_one_printable_line(tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"a\nb\xff")
    check = disk_check("work folder", folder, space=ROOMY, root=tmp_path)
    assert check.status == "ok"
    assert check.found.isprintable()
    check.found.encode()


# -- clock --------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1970, 2025, 2100, 9999])
def test_a_year_that_cannot_be_is_a_warning(year: int):
    check = clock_check(dt.datetime(year, 1, 1, tzinfo=dt.UTC), synchronized=True)
    assert check.status == "warning"
    assert f"the year {year} cannot be" in check.found
    assert "timedatectl" in str(check.fix)


@pytest.mark.parametrize(("synchronized", "status"), [(True, "ok"), (False, "note"), (None, "ok")])
def test_a_clock_that_nobody_sets_is_a_note(synchronized: bool | None, status: str):
    now = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
    assert clock_check(now, synchronized=synchronized).status == status


def test_the_kernel_tells_of_its_clock_or_does_not():
    assert clock_synchronized() in {True, False, None}


# -- the machine --------------------------------------------------------------------------------


def test_a_jetson_a_pi_and_a_container_are_known_by_their_files(put: Put):
    bare = this_machine(put({"proc/1/cgroup": "0::/init.scope\n"}))
    assert (bare.board, bare.l4t, bare.nvidia, bare.container) == ("", None, False, None)
    root = put(
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1\n",
            "proc/driver/nvidia/version": "NVRM\n",
            "proc/1/cgroup": "0::/kubepods/pod1\n",
        }
    )
    found = this_machine(root)
    assert (found.board, found.l4t, found.nvidia) == ("NVIDIA Jetson Orin Nano", 36, True)
    assert found.container == "kubepods"
    assert "Jetson Linux 36" in machine_check(found).found
    assert container_check(found).status == "note"
    assert this_machine(put({".dockerenv": ""})).container == "docker"


@pytest.mark.parametrize(
    ("of", "part"),
    [
        (machine(), "whl/cpu"),
        (machine(architecture="x86_64"), "whl/cpu"),
        (machine(l4t=35, nvidia=True), "whl/cpu"),
        (machine(l4t=36, nvidia=True), "whl/cpu"),
        (machine(l4t=38, nvidia=True), "sbsa/cu130/+simple/"),
    ],
)
def test_every_machine_is_told_the_index_with_its_wheel(of: Machine, part: str):
    assert torch_command(of).endswith(part)


def test_a_server_with_a_gpu_takes_torch_from_the_plain_index():
    assert torch_command(machine(architecture="x86_64", nvidia=True)) == "pip install torch"


def test_a_32_bit_system_is_an_error():
    check = machine_check(machine(architecture="armv7l", bits=32))
    assert check.status == "error"
    assert "64-bit system image" in check.found


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 12), "error"), ((3, 8, 10), "error"), ((3, 11, 0), "ok")]
)
def test_an_old_python_is_an_error(version: tuple[int, ...], status: str):
    check = python_check(version)
    assert check.status == status
    assert ("docker run" in str(check.fix)) == (status == "error")


def test_the_worst_finding_gives_the_verdict():
    def named(status: str) -> Check:
        return Check(name="x", status=status, found="")  # type: ignore[arg-type]

    assert worst([]) == "ok"
    assert worst([named("note"), named("ok")]) == "note"
    assert worst([named("error"), named("warning"), named("ok")]) == "error"


def test_a_machine_without_a_single_file_is_described_all_the_same(tmp_path: Path):
    root = tmp_path / "nothing"
    assert this_machine(root).container is None
    assert [c(root).status for c in (memory_check, thermal_check)] == ["note", "note"]
    assert cores_check(root, cores=2).status == "ok"
    assert not root.exists()
