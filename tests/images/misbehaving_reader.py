"""Stands in for the process that decodes images: what it does wrong is in the name of the file."""

import os
import signal
import sys
import time
from pathlib import Path

from edge_stl.images import _reader_main
from edge_stl.images._reader_wire import Answer, Question


def read(question: Question, max_pixels: int, max_bytes: int) -> Answer:  # noqa: C901
    """Go wrong, or answer as the real one."""
    path = Path(os.fsdecode(question.name))
    what = path.name.split("-")[0]
    if what == "abort":
        os.abort()
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(3)
    elif what == "loop":
        while True:
            pass
    elif what == "sleep":
        time.sleep(1000)
    elif what == "bomb":
        _reader_main.decode = lambda *_, **__: bytearray(8 << 30)  # type: ignore[assignment]
    elif what == "chatty":
        print("not an answer", flush=True)  # noqa: T201
        os.write(1, b"nor this")
    elif what == "writes":
        path.with_suffix(".core").write_bytes(b"x" * 100_000)
    elif what == "once":  # a folder, as it may write no file
        marker = path.with_suffix(".tried")
        if not marker.exists():
            marker.mkdir()
            os.abort()
    return _reader_main.read(question, max_pixels, max_bytes)


if __name__ == "__main__":
    _reader_main.serve(sys.argv[1:], read)
