"""All checks, in the order in which they are read."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from device_agent.doctor import _clock, _disk, _limits, _machine, _packages, _thermal
from device_agent.doctor._check import Check


def examine(
    *,
    work: Path,
    here: Path = Path(),
    root: Path = Path("/"),
    limit: float = _packages.TIME_LIMIT,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """Yield one check after the other, each made when it is asked for.

    Args:
        work: the work folder, there or not.
        here: the present folder.
        root: of the file system with /proc, /sys and /etc.
        limit: seconds for importing one package.
        environment: of the processes that import packages; by default this process's.
    """
    machine = _machine.this_machine(root)

    def tried(package: str, code: str) -> _packages.Probe:
        return _packages.probe(package, code, limit=limit, environment=environment)

    checks: tuple[Callable[[], Check], ...] = (
        lambda: _machine.machine_check(machine),
        _machine.python_check,
        lambda: _packages.torch_check(tried("torch", _packages.TORCH), machine),
        lambda: _packages.onnx_check(tried("onnx", _packages.ONNX)),
        lambda: _packages.onnxruntime_check(tried("onnxruntime", _packages.ONNXRUNTIME)),
        lambda: _limits.memory_check(root, container=machine.container),
        lambda: _limits.cores_check(root),
        lambda: _disk.disk_check("work folder", work, root=root),
        lambda: _disk.disk_check("this folder", here.absolute(), root=root),
        lambda: _thermal.thermal_check(root),
        lambda: _clock.clock_check(synchronized=_clock.clock_synchronized()),
        lambda: _machine.container_check(machine),
    )
    for check in checks:
        yield check()
