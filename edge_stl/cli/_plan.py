"""``edge-stl plan new`` and ``edge-stl plan show``."""

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._output import print_json, print_line, print_table


_SPLITS = {"test", "train", "training", "val", "valid", "validation"}

app = typer.Typer(no_args_is_help=True, help="Make a plan, or look at one.")


class Branches(enum.StrEnum):
    """How bands become branches."""

    single = "single"
    detail = "detail"
    context = "context"
    all = "all"


class Fit(enum.StrEnum):
    """How a non-square image becomes square."""

    crop = "crop"
    pad = "pad"
    stretch = "stretch"


@app.command(
    "new", epilog="Example: edge-stl plan new --classes photos --resolution 64 -o plan.toml"
)
def new(
    classes: Annotated[
        str,
        typer.Option(
            help="Class names with commas between, a file with a name per line, or a folder of "
            "class folders.",
            show_default=False,
        ),
    ],
    resolution: Annotated[
        int, typer.Option(help="R: rows and columns of the ensemble's input.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write it.")] = Path(
        "plan.toml"
    ),
    channels: Annotated[int, typer.Option(help="1 (grey) or 3 (RGB).")] = 3,
    transform: Annotated[
        str,
        typer.Option(
            help="A wavelet of PyWavelets, dct:b with b = 2, 4, 8, or the paper's stl-dct:b and "
            "stl-dft:b with b from 2 to 9."
        ),
    ] = "haar",
    levels: Annotated[
        int | None, typer.Option(help="Levels of the wavelet; 2 unless said.", show_default=False)
    ] = None,
    branches: Annotated[
        Branches | None,
        typer.Option(
            help="single: every band alone; detail: the details of a level together; context: a "
            "level with its approximation; all: every band in one branch. detail unless said, and "
            "single for stl-dct and stl-dft, which have no levels.",
            show_default=False,
        ),
    ] = None,
    network: Annotated[
        str, typer.Option(help="The network of every branch: a preset, or own:NAME of your own.")
    ] = "cnn-s",
    name: Annotated[str, typer.Option(help="Name of the plan.")] = "plan",
    fit: Annotated[Fit, typer.Option(help="How a non-square image becomes square.")] = Fit.crop,
    epochs: Annotated[int, typer.Option(help="Training epochs.")] = 30,
    shift: Annotated[
        float, typer.Option(help="Largest random shift, as a share of the side.")
    ] = 0.1,
    flip: Annotated[
        bool, typer.Option(help="Mirror images in training; --no-flip for digits and letters.")
    ] = True,
    json: opt.Json = False,
) -> None:
    """Make a plan: what every box agrees on before it looks at a pixel."""
    from edge_stl.durable import write_durably
    from edge_stl.errors import UsageError
    from edge_stl.plan import new_plan, plan_toml

    if out.exists():
        raise UsageError(
            f"{out}: there is a file already, and a plan is never changed. Choose another -o, or "
            "delete it"
        )
    plan = new_plan(
        classes=_class_names(classes),
        resolution=resolution,
        channels=channels,
        transform=transform,
        levels=levels,
        branches=None if branches is None else branches.value,
        network=network,
        name=name,
        fit=fit.value,
        epochs=epochs,
        shift=shift,
        flip=flip,
    )
    write_durably(out, plan_toml(plan).encode())
    if json:
        print_json({"output": str(out), "plan_digest": plan.digest})
    else:
        print_line(f"{out}  digest {plan.digest}")


def _class_names(text: str) -> list[str]:
    from edge_stl.errors import DataError
    from edge_stl.images import class_names

    path = Path(text)
    if path.is_dir():
        names = class_names(path)
        if names and set(names) <= _SPLITS:
            raise DataError(
                f"{path}: its folders {names} are splits, not classes; expected class folders. "
                f"Use {path / next((n for n in names if n.startswith('train')), names[-1])}"
            )
        return names
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: cannot be read as text ({error}); expected one class name per line"
            ) from None
        return [line.strip() for line in lines if line.strip()]
    if "," not in text and any(mark in text for mark in "/\\"):  # no class may be called so
        raise DataError(
            f"--classes {text}: there is no such file or folder; expected class folders, a file "
            "with one class name per line, or names with commas between. Check the path"
        )
    return [part.strip() for part in text.split(",") if part.strip()]


@app.command("show", epilog="Example: edge-stl plan show plan.toml --image photo.jpg")
def show(
    plan_file: opt.PlanFile,
    image: Annotated[
        Path | None, typer.Option(help="Picture the bands of this image.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the picture goes.")] = Path(
        "bands.png"
    ),
    json: opt.Json = False,
) -> None:
    """Show bands, branches, sizes, parameters and multiply-adds; with --image, a picture."""
    from edge_stl.plan import Plan, networks, read_plan

    plan = read_plan(plan_file)
    picture = _picture(plan, image, out) if image is not None else None

    def row(plan: Plan, name: str) -> dict[str, Any]:
        branch = plan.branch(name)
        shape = {"channels": plan.band_channels(branch), "size": plan.band_size(branch)}
        layers = None if branch.own is not None else plan.layers(branch)
        return {
            "branch": branch.name,
            "bands": list(branch.bands),
            "native_resolution": plan.required_resolution(branch),
            **shape,
            "network": branch.network,
            # of a network of the user's own the module alone knows
            "parameters": None if layers is None else networks.parameters(layers, **shape),
            "multiply_adds": None if layers is None else networks.multiply_adds(layers, **shape),
        }

    rows = [row(plan, branch.name) for branch in plan.branches]
    boxes = {str(r): [b.name for b in plan.carried(r)] for r in plan.resolutions}
    own = {str(r): [b.name for b in plan.own(r)] for r in plan.resolutions}
    if json:
        print_json(
            {
                "name": plan.name,
                "plan_digest": plan.digest,
                "classes": list(plan.classes),
                "resolution": plan.input.resolution,
                "transform": str(plan.bank),
                "bands": {
                    b: plan.bank.size(b, plan.input.resolution) for b in plan.bank.all_bands()
                },
                "branches": rows,
                "carried": boxes,
                "auto": own,
                "picture": picture,
            }
        )
        return
    print_line(
        f"{plan.name}: {len(plan.classes)} classes, {plan.input.resolution} px, "
        f"{plan.input.channels} channels, {plan.bank}; digest {plan.digest[:12]}"
    )
    print_table(
        "",
        ("branch", "bands", "network", "box needs", "input", "parameters", "multiply-adds"),
        [
            (
                r["branch"],
                _short(r["bands"]),
                r["network"],
                f"{r['native_resolution']} px",
                f"{r['channels']}x{r['size']}x{r['size']}",
                _count(r["parameters"]),
                _count(r["multiply_adds"]),
            )
            for r in rows
        ],
        left=3,
    )
    print_table(
        "",
        ("a box of", "can train", "--branch auto trains"),
        [(f"{r} px", " ".join(boxes[r]) or "-", " ".join(own[r]) or "-") for r in boxes],
        left=3,
    )
    if picture is not None:
        print_line(f"{picture['output']}  sha256 {picture['sha256']}")


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _short(bands: list[str]) -> str:
    few = 6
    return " ".join(bands) if len(bands) <= few else f"{' '.join(bands[:few])} … ({len(bands)})"


def _picture(plan: Any, image: Path, out: Path) -> dict[str, str]:
    import hashlib

    from edge_stl.durable import write_durably
    from edge_stl.fleet import bands_picture
    from edge_stl.images import decode, fit_square

    pixels = decode(
        image,
        channels=plan.input.channels,
        max_pixels=plan.limits.max_image_pixels,
        max_bytes=plan.limits.max_image_bytes,
    )
    data = bands_picture(plan, fit_square(pixels, plan.input.resolution, plan.input.fit))
    write_durably(out, data)
    return {"output": str(out), "sha256": hashlib.sha256(data).hexdigest()}
