"""What the benchmarks share: options, the machine in words, rows for ``docs/results.md``."""

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks._data import DATA_VARIABLE, default_data
from device_agent.job import usable_cores
from edge_stl.durable import write_durably
from edge_stl.errors import EdgeStlError


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks take."""
    first = (doc or "").strip()
    found = argparse.ArgumentParser(
        description=first, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--seeds", type=whole, default=1, help="repetitions (default 1)")
    found.add_argument(
        "--data",
        type=Path,
        default=default_data(),
        help=f"folder with the published data set (default: ${DATA_VARIABLE}, or %(default)s)",
    )
    found.add_argument("--out", type=Path, help="keeps everything (default: runs/NAME)")
    found.add_argument("--jobs", type=whole, default=usable_cores(), help="boxes at a time")
    found.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return found


def whole(text: str) -> int:
    """Return the whole number of 1 or more that an option was given.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of 1 or more")
    return int(text)


def machine() -> str:
    """Return the machine in words: processor, cores, versions that matter."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return (
        f"{model}, {usable_cores()} cores, Linux, Python {platform.python_version()}, torch "
        f"{version('torch')}, onnxruntime {version('onnxruntime')}"
    )


def commit() -> str:
    """Return the commit the code is at, with ``+`` when files differ from it."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607  (git is where the user has it)
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")


COMMIT = commit()
"""Taken at the start: what is measured is the code that was there then."""


def report(document: dict[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """Print a result: one JSON object, or lines for a person and ``docs/results.md``."""
    if as_json:
        print(json.dumps(document, allow_nan=False))
        return
    print(f"\n{_stamp()}\n")
    print("\n".join(lines))


def _stamp() -> str:
    """Return what a number needs beside it: command, commit, machine."""
    command = f"python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}".strip()
    return f"`{command}`, commit {COMMIT}, {machine()}"


def append_results(title: str, lines: Sequence[str]) -> None:
    """Append a result to ``docs/results.md``, with its command, commit and machine."""
    path = Path(__file__).resolve().parents[1] / "docs" / "results.md"
    text = path.read_text(encoding="utf-8").rstrip()
    entry = "\n".join([f"### {title}", "", _stamp(), "", *lines])
    write_durably(path, f"{text}\n\n{entry}\n".encode())


def guarded(main: Any) -> int:
    """Run a benchmark; a known error is one line and its exit code."""
    try:
        main()
    except EdgeStlError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it stopped", file=sys.stderr)
        return 30
    return 0


def points(values: Sequence[float]) -> str:
    """Return mean and sample standard deviation of shares of 0..1, in per cent."""
    import statistics

    mean = 100 * statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {100 * statistics.stdev(values):.2f}"
