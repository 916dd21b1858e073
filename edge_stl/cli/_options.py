"""Options that several verbs share."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from edge_stl.trust import Numbers

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no notes.")]
Box = Annotated[
    str | None,
    typer.Option(help="Name of this box; needed on the first run.", show_default=False),
]
Work = Annotated[
    Path | None,
    typer.Option(help="Folder for cache and checkpoints; stays on the box.", show_default=False),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads; by default all cores.", show_default=False)
]
PlanFile = Annotated[
    Path, typer.Argument(metavar="PLAN", help="The plan file.", show_default=False)
]
ImageFolder = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGES",
        help="A folder of class folders, or a folder with labels.csv (file_name,label).",
        show_default=False,
    ),
]
EnsembleFile = Annotated[
    Path, typer.Argument(metavar="ENSEMBLE", help="An ensemble file.", show_default=False)
]
_KEY = typer.Option(
    "--key",
    envvar="EDGE_STL_KEY",
    metavar="KEYFILE",
    help="Private key of this machine, to sign what is written.",
    show_default=False,
)
Key = Annotated[Path | None, _KEY]
NeededKey = Annotated[Path, _KEY]
TrustFile = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="trust.toml",
        help="Take only what a key in this file signed.",
        show_default=False,
    ),
]
AcceptGraphs = Annotated[
    bool,
    typer.Option(
        "--accept-graphs",
        help="Take branches whose network is their owner's own (own:NAME): their graphs are looked "
        "at in a limited process, and then run.",
    ),
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Instead of the plan's.", show_default=False)
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Boxes at a time; by default one per core.", show_default=False),
]


class EngineName(enum.StrEnum):
    """What runs many calls of the agent."""

    local = "local"
    ray = "ray"


Engine = Annotated[
    EngineName,
    typer.Option(help="local: processes on this machine; ray: Ray tasks, here or on a cluster."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to use, like auto or HOST:6379; by default Ray is started here.",
        metavar="ADDRESS",
        show_default=False,
    ),
]


def numbers_of(plan_digest: str, box: str | None, work: Path | None) -> "Numbers":
    """Return where the numbers of signatures are kept: in the box's work folder, or the desk's.

    Args:
        plan_digest: of the plan.
        box: whose file is signed; none for an ensemble.
        work: ``--work``, if given.

    Raises:
        ResourceError: the folder cannot be made.
    """
    from device_agent.work import default_work_root
    from edge_stl.durable import make_folder
    from edge_stl.trust import COUNTER_FILE, Numbers

    root = default_work_root()
    folder = work or (root / "desk" if box is None else root / plan_digest / box)
    make_folder(folder, mode=0o700, option="--work")
    return Numbers(folder / COUNTER_FILE)
