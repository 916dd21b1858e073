"""Reading images that anyone may have put there, in a process of its own.

`decode` and `read_size` do the same in this process. Here a file that makes Pillow crash, hang or
take all memory costs this one image: it is tried once more in a new process and then left out.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from edge_stl.errors import ResourceError
from edge_stl.images._fit import Fit
from edge_stl.images._reader_limits import ReadLimits
from edge_stl.images._reader_process import ReaderDied, ReaderProcess
from edge_stl.images._reader_wire import FITS, NO_MEMORY, Answer, Question


_TRIES = 2  # of an image whose process died
_STARTS = 2  # of a process that dies before it is ready
_SIZES_AHEAD, _ROWS_AHEAD = 64, 8  # questions asked ahead, so that nobody waits for the other
_KILLED_IN_A_ROW = 20  # images


class ImageReader:
    """Reads image after image; answers come in the order of the questions.

    A context: leaving it ends the process. One thread uses it at a time.
    """

    def __init__(self, limits: ReadLimits, *, poll: Callable[[], object] = lambda: None) -> None:
        """Prepare; the process starts with the first image.

        Args:
            limits: What an image may use.
            poll: Called at least every second while waiting for an image; what it raises ends
                the waiting.
        """
        self._limits = limits
        self._poll = poll
        self._process: ReaderProcess | None = None
        self._killed = 0  # images in a row that were lost because somebody killed the process

    def sizes(self, paths: Iterable[str | os.PathLike[str]], *, fit: Fit) -> Iterator[Answer]:
        """Read the sizes of images from their headers.

        Args:
            paths: The files; taken a few ahead.
            fit: Images whose square would have too many pixels are refused.

        Yields:
            For every file its width and height as `read_size` gives them, or a reason.

        Raises:
            ResourceError: This machine cannot decode, whatever the image.
            UsageError: Pillow is not installed.
        """
        code = FITS.index(fit)
        questions = (Question(_absolute(path), 0, 0, code) for path in paths)
        return self._answers(questions, _SIZES_AHEAD)

    def rows(
        self, paths: Iterable[str | os.PathLike[str]], *, side: int, channels: int, fit: Fit
    ) -> Iterator[Answer]:
        """Decode images and fit them to squares, as `decode` and `fit_square` do.

        Args:
            paths: The files; taken a few ahead.
            side: Of the square, in pixels.
            channels: 1 or 3.
            fit: ``crop``, ``pad`` or ``stretch``.

        Yields:
            For every file its side * side * channels bytes, or a reason; ``too_small`` where it
            would have to be enlarged.

        Raises:
            ResourceError: This machine cannot decode, whatever the image.
            UsageError: Pillow is not installed.
        """
        code = FITS.index(fit)
        questions = (Question(_absolute(path), side, channels, code) for path in paths)
        return self._answers(questions, _ROWS_AHEAD)

    def close(self) -> None:
        """End the process; more than once is fine."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answers(self, questions: Iterator[Question], ahead: int) -> Iterator[Answer]:
        asked: deque[Question] = deque()
        try:
            while True:
                while len(asked) < ahead and (question := next(questions, None)) is not None:
                    asked.append(question)
                    if self._process is not None:
                        self._process.ask(question)
                if not asked:
                    return
                answer = self._answer(asked)
                asked.popleft()
                yield answer
        finally:
            if asked:  # nobody hears the answers that are still to come
                self.close()

    def _answer(self, asked: deque[Question]) -> Answer:
        """Wait for the answer to the first question; the others have been asked after it."""
        killed = 0
        lost = ""
        for _ in range(_TRIES):
            process = self._started(asked)
            try:
                answer = process.hear(self._limits.wall_seconds)
            except ReaderDied as death:
                self._process = None
                self._poll()  # who stops the agent may have ended the process with it
                lost, killed = death.reason, killed + death.from_outside
            else:
                if answer.code != NO_MEMORY:
                    self._killed = 0
                    return answer
                self.close()  # a heap in pieces is no place for the next image
                lost = "too_much_memory"
        self._killed = self._killed + 1 if killed == _TRIES else 0
        if self._killed == _KILLED_IN_A_ROW:
            raise ResourceError(
                f"reading images: the process that decodes was killed with each of the last "
                f"{_KILLED_IN_A_ROW} images; expected memory for one image. Free memory, or lower "
                "[limits] max_image_pixels in the plan"
            )
        return Answer.because(lost)

    def _started(self, asked: Iterable[Question]) -> ReaderProcess:
        if self._process is None:
            for attempt in range(1, _STARTS + 1):
                try:
                    self._process = ReaderProcess(self._limits, self._poll)
                    break
                except ReaderDied as death:
                    if attempt == _STARTS:
                        raise ResourceError(
                            f"reading images: the process that decodes {death.how} before it read "
                            "one; expected a Python that runs numpy and Pillow. Run edge-stl doctor"
                        ) from None
            assert self._process is not None  # noqa: S101  (for mypy)
            for question in asked:
                self._process.ask(question)
        return self._process


def _absolute(path: str | os.PathLike[str]) -> bytes:
    """Return a name that means the same in a process that was started in another folder."""
    return os.path.abspath(os.fsencode(path))  # noqa: PTH100  (links stay links)
