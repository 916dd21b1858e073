"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no notes.")]
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
