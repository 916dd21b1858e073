"""``--slot``: the ensemble that serves on this machine, in place of a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from edge_stl.predict import Ensemble


Slot = Annotated[
    Path | None,
    typer.Option(
        "--slot",
        metavar="SLOTS",
        help="Take the ensemble that 'edge-stl deploy' put into this folder.",
        show_default=False,
    ),
]


def split_paths(
    paths: Sequence[Path], slot: Path | None, *, what: str, most: int | None = None
) -> tuple[Path | None, list[Path]]:
    """Return the ensemble file, none with ``--slot``, and what it is to answer.

    Raises:
        UsageError: there are too few paths or too many.
    """
    from edge_stl.errors import UsageError

    first = 0 if slot is not None else 1
    rest = list(paths[first:])
    if not rest or (most is not None and len(rest) > most):
        expected = what if slot is not None else f"an ensemble file and {what}"
        many = "path" if len(paths) == 1 else "paths"
        raise UsageError(f"{len(paths)} {many}; expected {expected}. See --help")
    return (paths[0] if first else None), rest


def open_ensemble(
    file: Path | None,
    slot: Path | None,
    *,
    trust: Path | None = None,
    threads: int,
    threshold: float | None,
) -> "Ensemble":
    """Open the file, or what serves in the slots; where that is the other slot, a line says why.

    Raises:
        DataError: there is no such file, or nothing was deployed.
        IntegrityError: no slot works, or no trusted desk signed the file.
        UsageError: as `Ensemble`, or ``--trust`` beside ``--slot``.
    """
    from edge_stl.errors import UsageError
    from edge_stl.predict import Ensemble, Slots

    if slot is None:
        assert file is not None  # noqa: S101  (split_paths gave it)
        if trust is None:
            return Ensemble(file, threads=threads, threshold=threshold)
        from edge_stl.trust import trusted_ensemble

        verified = trusted_ensemble(file, trust)  # these bytes, and none that come after them
        return Ensemble(verified, threads=threads, threshold=threshold)
    if trust is not None:
        raise UsageError(
            "--slot and --trust: a slot keeps no signature; expected one of the two. Give "
            "--trust to edge-stl deploy instead"
        )
    slots = Slots(slot)
    model = slots.open(threads=threads, threshold=threshold)
    if slots.note is not None:
        typer.echo(f"edge-stl: {slots.note}", err=True)
    return model
