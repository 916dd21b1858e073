"""``edge-stl agent``: the unattended service of a box, and the systemd unit that runs it."""

import os
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_stl.cli import _options as opt
from edge_stl.cli._output import print_json, print_line
from edge_stl.cli._train import Device, budget_of
from edge_stl.errors import Interrupted, ResourceError, UsageError


app = typer.Typer(
    help="Train unattended: when new images have come, in allowed hours, into an outbox.",
    no_args_is_help=True,
)

_UNITS = Path("/etc/systemd/system")

_PATHS = {"plan_file", "images", "out", "work", "metrics_file"}
_TRAINING = "Training: as in edge-stl train"


@app.command(epilog="Example: edge-stl agent watch plan.toml photos -o outbox --box cam07")
def watch(
    plan_file: opt.PlanFile,
    images: opt.ImageFolder,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="The outbox: what you copy off the box.", show_default=False
        ),
    ],
    box: opt.Box = None,
    work: opt.Work = None,
    every: Annotated[
        int, typer.Option(min=1, help="Train when so many images are new or changed.")
    ] = 100,
    hours: Annotated[
        str | None,
        typer.Option(
            help="Train only then, local time: 22-6 or 22:30-6,12-13.", show_default=False
        ),
    ] = None,
    check_every: Annotated[
        str, typer.Option(help="Time between two looks, like 60s, 10m or 1h.")
    ] = "60s",
    metrics_file: Annotated[
        Path | None,
        typer.Option(help="Keep this Prometheus text file up to date.", show_default=False),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Train if it is due, then end.")] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads; by default all cores.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    branch: Annotated[
        str, typer.Option(help="auto, all or a name.", rich_help_panel=_TRAINING)
    ] = "auto",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Instead of the plan's.", show_default=False, rich_help_panel=_TRAINING
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Instead of the plan's.", show_default=False, rich_help_panel=_TRAINING
        ),
    ] = None,
    device: Annotated[
        Device,
        typer.Option(help="auto takes a GPU when there is one.", rich_help_panel=_TRAINING),
    ] = Device.cpu,
    time_budget: Annotated[
        str | None,
        typer.Option(
            help="Of one training: 30m; it goes on at the next look.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(help="Like 600M.", show_default=False, rich_help_panel=_TRAINING),
    ] = None,
    max_celsius: Annotated[
        str | None,
        typer.Option(
            help="Pause at this temperature; off: never.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    nice: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=19,
            help="Give way to other programs.",
            show_default=False,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Look at IMAGES again and again, and train when enough of them are new.

    It ends on SIGTERM or Ctrl-C alone, with a checkpoint and exit code 30; SIGHUP makes it look
    now. The log goes to stderr: sentences on a terminal, else one JSON object per line.
    """
    from edge_stl.service import Settings, Teller, Watch, parse_hours

    budget_of(time_budget, max_memory, max_celsius)  # a wrong one is told now, not every night
    settings = Settings(
        plan_file=plan_file.absolute(),
        images=images.absolute(),
        out=out.absolute(),
        box=box,
        work=None if work is None else work.absolute(),
        every=every,
        hours=None if hours is None else parse_hours(hours),
        check_every=_seconds("--check-every", check_every),
        threads=threads,
        # What goes to `train` as it stands: a parameter above and a line here for each option, in
        # `limits` where the branch file is the same without it.
        options=_passed_on(
            {
                "--branch": branch,
                "--epochs": epochs,
                "--seed": seed,
                "--device": device.value,
            }
        ),
        limits=_passed_on(
            {
                "--time-budget": time_budget,
                "--max-memory": max_memory,
                "--max-celsius": max_celsius,
                "--nice": nice,
            }
        ),
        metrics_file=None if metrics_file is None else metrics_file.absolute(),
        once=once,
    )
    human = sys.stderr.isatty()
    watching = Watch(settings, log=Teller(human=human))
    try:
        summary = watching.run()
    except Interrupted:
        if json:
            print_json(asdict(watching.summary))
        raise typer.Exit(Interrupted.exit_code) from None  # the log has said it
    if json:
        print_json(asdict(summary))
        return
    for row in summary.files:
        print_line(f"{row['file']}  sha256 {row['sha256']}")


@app.command(
    "install-service",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: edge-stl agent install-service plan.toml photos -o outbox --box a --dry-run",
)
def install_service(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print it, write nothing.")] = False,
    user: Annotated[
        str | None,
        typer.Option(help="Who runs it; by default the owner of IMAGES.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the service.")] = "edge-stl",
    memory_max: Annotated[
        str, typer.Option(help="Most memory, as systemd takes it: 1500M, 2G, 75%.")
    ] = "75%",
    json: opt.Json = False,
) -> None:
    """Write a hardened systemd unit that runs agent watch, whose arguments follow as there.

    The work folder is /var/lib/NAME/work unless --work says otherwise.
    """
    from edge_stl.plan import NAME_PATTERN, read_plan
    from edge_stl.service import Unit, unit_text

    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"--name {name!r}: expected lower-case letters, digits and '-', at most 32, like "
            "'edge-stl'"
        )
    if not re.fullmatch(r"[0-9]{1,15}[KMGT]?|[0-9]{1,3}%|infinity", memory_max, re.ASCII):
        raise UsageError(
            f"--memory-max {memory_max!r}: is no size; expected bytes with K, M, G or T, a share "
            "of the memory, or infinity, like 1500M or 75%"
        )
    given, params = _watch_arguments(context.args)
    plan, images, out = (params[key] for key in ("plan_file", "images", "out"))
    read_plan(plan)
    if params["box"] is None:
        raise UsageError("--box is needed: the name of this box, like 'cam07'")
    work = Path(f"/var/lib/{name}/work") if params["work"] is None else params["work"]
    writes = [out]
    if params["work"] is not None:
        writes.append(work)
    if params["metrics_file"] is not None:
        writes.append(params["metrics_file"].parent)
    unit = unit_text(
        Unit(
            name=name,
            user=_user(user, images),
            arguments=_unit_arguments(given, params, work),
            reads=(images, plan.parent),
            writes=tuple(writes),
            gpu=params["device"] != Device.cpu,
            memory_max=memory_max,
        )
    )
    path = None if dry_run else _install(unit, name, writes, _user(user, images))
    after = ["sudo systemctl daemon-reload", f"sudo systemctl enable --now {name}.service"]
    if json:
        file = None if path is None else str(path)
        print_json({"name": name, "unit": unit, "file": file, "next": after})
    elif path is None:
        print_line(unit.rstrip("\n"))
    else:
        print_line(str(path))
        print_line("Next: " + " && ".join(after))


def _given(context: typer.Context) -> set[str]:
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {n for n, source in sources.items() if source and source.name == "COMMANDLINE"}


def _passed_on(options: dict[str, object]) -> tuple[str, ...]:
    return tuple(f"{option}={value}" for option, value in options.items() if value is not None)


def _watch_arguments(arguments: list[str]) -> tuple[set[str], dict[str, Any]]:
    """Read the arguments of `watch`, by the parser of `watch`."""
    from edge_stl.service import parse_hours

    commands: Any = typer.main.get_command(app)
    inner = commands.commands["watch"].make_context("edge-stl agent watch", list(arguments))
    params: dict[str, Any] = dict(inner.params)
    if params["hours"] is not None:
        parse_hours(params["hours"])
    _seconds("--check-every", params["check_every"])
    budget_of(params["time_budget"], params["max_memory"], params["max_celsius"])
    if params["once"] or params["json"]:
        raise UsageError("--once and --json are for a person; a service goes on. Leave them out")
    for name in _PATHS:
        if params[name] is not None:
            params[name] = Path(params[name]).absolute()
    return _given(inner), params


def _unit_arguments(given: set[str], params: dict[str, Any], work: Path) -> tuple[str, ...]:
    """Return the arguments of `watch` in a unit: absolute paths, and what was given."""
    options = {"out": params["out"], "work": work}
    others = sorted(given - {"plan_file", "images", *options})
    options |= {name: params[name] for name in others}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return ("agent", "watch", *words, "--", str(params["plan_file"]), str(params["images"]))


def _user(user: str | None, images: Path) -> str:
    import pwd

    if user is not None:
        try:
            return pwd.getpwnam(user).pw_name
        except (KeyError, ValueError):
            raise UsageError(
                f"--user {user!r}: there is no such user here; expected one of /etc/passwd"
            ) from None
    try:
        owner = images.stat().st_uid
        found = pwd.getpwuid(owner).pw_name
    except (OSError, KeyError):
        raise UsageError(
            f"{images}: its owner is not known here; expected a folder of a user of this machine. "
            "Check the path, or say who is to run the service: --user NAME"
        ) from None
    if owner == 0:
        raise UsageError(
            f"{images}: belongs to root; expected a user that may read it and write the outbox. "
            "Say who is to run the service: --user NAME"
        )
    return found


def _install(unit: str, name: str, writes: list[Path], user: str) -> Path:
    from edge_stl.durable import write_durably
    from edge_stl.service._unit import HEADER

    path = _UNITS / f"{name}.service"
    if os.geteuid() != 0:
        raise ResourceError(
            f"{path}: only root may write it; expected root. Run it with sudo, or look at it with "
            "--dry-run"
        )
    for folder in writes:
        if not folder.is_dir():
            raise ResourceError(
                f"{folder}: is no folder; the service needs one that {user} may write. Run: "
                f"install -d -o {user} {shlex.quote(str(folder))}"
            )
    if path.exists() and not path.read_text(errors="replace").startswith(HEADER):
        raise ResourceError(
            f"{path}: is there and was not written by edge-stl; expected no such service. Choose "
            "another --name"
        )
    write_durably(path, unit.encode())
    return path


def _seconds(option: str, text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})(s|m|h|)", text.strip(), re.ASCII)
    seconds = (
        0.0 if match is None else float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    )
    if not 1 <= seconds <= 30 * 86400:
        raise UsageError(
            f"{option} {text}: is no time from 1 second to 30 days; expected seconds, minutes or "
            "hours, like 60s, 10m or 1h"
        )
    return seconds
