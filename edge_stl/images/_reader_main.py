"""The process that decodes images for the agent: ``python -m edge_stl.images._reader_main``.

Image files come from anyone, and what reads them is a lot of C. So it runs here: in a process
that holds nothing of value, with limits of memory and time, and whose death costs one image.

Started by `edge_stl.images._reader`, with five numbers: the parent's process id, and the fields
of `ReadLimits` but the last. Questions come on standard input, answers go to standard output.
"""

import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

from edge_stl.errors import DataError, ResourceError, UsageError
from edge_stl.images._decode import decode, read_size
from edge_stl.images._fit import Fit, fit_square
from edge_stl.images._open import FORMATS
from edge_stl.images._pillow import pillow_image
from edge_stl.images._reader_limits import (
    Stopwatch,
    live_with,
    use_no_more_memory_than,
    write_no_file,
)
from edge_stl.images._reader_wire import (
    FITS,
    NO_MEMORY,
    NO_PILLOW,
    READY,
    SEEN,
    TOO_SMALL,
    Answer,
    Question,
)
from edge_stl.images._reasons import UnreadableImage


Read = Callable[[Question, int, int], Answer]
_BLOCK = 1 << 16
_NOT_PREPARED = ("PIL.TiffImagePlugin", "PIL.WebPImagePlugin")


def read(question: Question, max_pixels: int, max_bytes: int) -> Answer:
    """Answer one question.

    Args:
        question: Which file, and what of it.
        max_pixels: Images with more pixels are refused.
        max_bytes: Larger files are refused.

    Returns:
        The answer; every way in which a file can be wrong is one.
    """
    try:
        return _read(question, max_pixels, max_bytes)
    except UnreadableImage as error:
        return Answer.because(error.reason)
    except DataError:  # smaller than its header said, or than it was
        return Answer(TOO_SMALL)
    except (MemoryError, ResourceError):
        return Answer(NO_MEMORY)


def _read(question: Question, max_pixels: int, max_bytes: int) -> Answer:
    path, fit = os.fsdecode(question.name), cast("Fit", FITS[question.fit])
    pixels = None
    if question.side:
        channels = question.channels
        pixels = decode(path, channels=channels, max_pixels=max_pixels, max_bytes=max_bytes)
        height, width, _ = pixels.shape
    else:
        width, height = read_size(path, max_pixels=max_pixels, max_bytes=max_bytes)
    # a line of pixels becomes a square of borders: the square is what takes the memory
    if fit == "pad" and max(width, height) ** 2 > max_pixels:
        return Answer.because("too_many_pixels")
    row = b"" if pixels is None else fit_square(pixels, question.side, fit).tobytes()
    return Answer(SEEN, width, height, row)


def serve(arguments: Sequence[str], read: Read = read) -> None:
    """Answer questions until there are no more.

    Args:
        arguments: See the top of this file.
        read: Answers one question.
    """
    parent, max_pixels, max_bytes, memory, seconds = map(int, arguments)
    live_with(parent)
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        _try_every_format()
    except UsageError:
        _write(answers, Answer(NO_PILLOW).frame())
        return
    write_no_file()
    use_no_more_memory_than(memory)
    _write(answers, Answer(READY).frame())
    watch = Stopwatch(seconds)
    asked = bytearray()
    while True:
        question = Question.first_of(asked)
        if question is not None:
            watch.start()
            _write(answers, read(question, max_pixels, max_bytes).frame())
        elif more := os.read(0, _BLOCK):
            asked += more
        else:
            return


def _try_every_format() -> None:
    """Load what decodes, and see it work: who cannot read these images can read none."""
    pillow = pillow_image()
    pillow.preinit()
    for module in _NOT_PREPARED:  # all of Pillow's forty would take as long as numpy
        with suppress(ImportError):  # Pillow may be built without one
            importlib.import_module(module)
    for kind in FORMATS:
        if kind in pillow.SAVE:
            buffer = io.BytesIO()
            pillow.new("L", (8, 8)).save(buffer, kind)
            pillow.open(buffer, formats=(kind,)).load()


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


if __name__ == "__main__":
    serve(sys.argv[1:])
