"""The self-test of an ensemble, in a child process with limits."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edge_stl.errors import CheckError, IntegrityError, UsageError


SECONDS = 120
"""Wall-clock time of a test; the import alone takes ten seconds on slow cards."""

MEMORY = 2 << 30
"""Bytes of address space beside what the file needs; numpy and onnxruntime reserve much of it."""

_PER_BYTE = 8
"""Of the file: its bytes, onnxruntime's copy, what it packs, and what it computes."""

CHILD = ("-P", "-m", "edge_stl.deploy._child")
_GRACE = 5


@dataclass(frozen=True)
class SelfTest:
    """What an ensemble showed on this machine.

    Attributes:
        classes: class names in output order.
        milliseconds: of the fastest of up to 20 single images, one thread.
        difference: from its test vector.
    """

    classes: tuple[str, ...]
    milliseconds: float
    difference: float


def self_test(file: Path, digest: str, *, name: str) -> SelfTest:
    """Load an ensemble in a child, ask it its test vector and other images, and time it.

    Args:
        file: the private copy.
        digest: its sha256.
        name: what it is called in messages.

    Raises:
        CheckError: it does not load, answers wrongly, crashes, or needs too much time or memory.
        IntegrityError: the copy is not what was copied.
        UsageError: onnxruntime is not installed.
    """
    memory = MEMORY + _PER_BYTE * file.stat().st_size
    command = [sys.executable, *CHILD, str(file), digest, str(SECONDS), str(memory)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),  # noqa: PTH109
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    process = subprocess.Popen(  # noqa: S603  (our own command)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        said, _ = process.communicate(timeout=SECONDS + _GRACE)
    except subprocess.TimeoutExpired:
        raise CheckError(_too_long(name)) from None
    finally:  # also after Ctrl-C; nothing happens to one that has ended
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if process.returncode in {-signal.SIGALRM, -signal.SIGXCPU}:
        raise CheckError(_too_long(name))
    return _found(process.returncode, said, name)


def _too_long(name: str) -> str:
    return (
        f"{name}: the self-test did not end within {SECONDS} s; expected an answer in a fraction "
        "of that. Merge it again; the slots stay as they are"
    )


def _found(code: int, said: bytes, name: str) -> SelfTest:
    try:
        document = json.loads(said.decode().strip().splitlines()[-1])
    except (IndexError, ValueError):
        document = {}
    problem = document.get("problem")
    if problem is not None:
        kinds = {k.exit_code: k for k in (CheckError, IntegrityError, UsageError)}
        raise kinds.get(document.get("code"), CheckError)(f"{name}: {problem}")
    if code != 0 or not document:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise CheckError(
            f"{name}: the self-test crashed ({how}); expected answers. Merge it again, or try "
            "another onnxruntime; the slots stay as they are"
        )
    return SelfTest(
        tuple(document["classes"]), float(document["milliseconds"]), float(document["difference"])
    )
