"""A run and its image cache: where a row of it is damaged, the images are read anew, once."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TypeVar

from device_agent.cache import ImageCache
from device_agent.pixels import DamagedRows
from edge_stl.errors import ResourceError


T = TypeVar("T")


class Build(Protocol):
    """Opens or builds the cache of the run."""

    def __call__(self, *, anew: bool) -> ImageCache:
        """Return it; ``anew`` for reading the images whatever is there."""


class MendedCache:
    """The cache of a run, replaced once where it is damaged; a context that closes its file.

    Damage is found when a row is read (`device_agent.pixels`), which may be hours after the run
    began. Whoever reads is then run again from its beginning, on a cache that was built anew: a
    branch goes on from its last checkpoint. A disk that damages two caches in one run is not to
    be trusted with a third.

    Args:
        build: Opens the cache.
        told: Called with a sentence where it is built anew.

    Attributes:
        cache: The one in use.
    """

    def __init__(self, build: Build, told: Callable[[str], object]) -> None:
        self.cache = build(anew=False)
        self._build, self._told = build, told
        self._mended = False

    def use(self, work: Callable[[ImageCache, bool], T]) -> T:
        """Do something with the cache.

        Args:
            work: Is given the cache, and whether it was called for this before.

        Returns:
            What ``work`` returns.

        Raises:
            DamagedRows: The cache is damaged, and was built anew in this run already.
            ResourceError: The images are no longer those that the run began with.
        """
        try:
            return work(self.cache, False)
        except DamagedRows:
            if self._mended:
                raise
        # Not in the clause above: the exception holds all that was in memory for the training.
        self._mended = True
        self.cache.pixels.close()
        self._told(f"{self.cache.pixels.path}: damaged; reading the images anew")
        before = self.cache.digest
        self.cache = self._build(anew=True)
        if self.cache.digest != before:
            raise ResourceError(
                f"{self.cache.pixels.path}: the images gave other pixels than when this run began; "
                "expected the same ones. Run the same command again to begin with what is there"
            )
        return work(self.cache, True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cache.pixels.close()
