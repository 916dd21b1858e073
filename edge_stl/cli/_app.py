"""All verbs in one command; every error is one line and a documented exit code."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from edge_stl import __version__
from edge_stl.cli import (
    _agent,
    _compare,
    _cotrain,
    _demo,
    _deploy,
    _doctor,
    _inspect,
    _merge,
    _plan,
    _predict,
    _simulate,
    _train,
    _trust,
)
from edge_stl.errors import (
    OUT_OF_MEMORY,
    EdgeStlError,
    Interrupted,
    ResourceError,
    StopNow,
    UsageError,
    ran_out_of_memory,
)


_HELP = """Train image classifiers on edge boxes without moving an image or a gradient.

The way: plan new -> train (on every box) -> merge (on any desk) -> predict. Try: edge-stl demo

Exit codes: 0 done, 1 unexpected, 2 wrong use, 10 data, 20 machine or resources, 30 stopped and
resumable, 40 check not ok, 50 merge refused, 60 integrity, signature. --debug: the traceback.
"""

_TYPER_INTERRUPTED = 130
_STOPPED = "stopped; the same command starts again"

app = typer.Typer(
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"edge-stl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


app.command(epilog="Example: edge-stl demo -o demo-out")(_demo.demo)
app.add_typer(_plan.app, name="plan")
app.command(epilog="Example: edge-stl train plan.toml photos -o out --box cam07")(_train.train)
app.command(
    epilog="Example: edge-stl cotrain jwins plan.toml photos --group group.toml --box cam07 -o out"
)(_cotrain.cotrain)
app.add_typer(_agent.app, name="agent")
app.command(epilog="Example: edge-stl merge out/*.onnx -o ensemble.onnx")(_merge.merge)
app.command(epilog="Example: edge-stl split ensemble.onnx -o branches")(_merge.split)
app.command(epilog="Example: edge-stl predict ensemble.onnx photo.jpg")(_predict.predict)
app.command(epilog="Example: edge-stl evaluate ensemble.onnx photos")(_predict.evaluate)
app.command(epilog="Example: edge-stl deploy ensemble.onnx slots")(_deploy.deploy)
app.command(epilog="Example: edge-stl inspect ensemble.onnx")(_inspect.inspect)
app.command(epilog="Example: edge-stl check ensemble.onnx --target jetpack5")(_inspect.check)
app.command(epilog="Example: edge-stl keygen -o cam07.key")(_trust.keygen)
app.command(epilog="Example: edge-stl sign out/*.onnx --key cam07.key")(_trust.sign)
app.command(epilog="Example: edge-stl verify out/*.onnx --trust trust.toml")(_trust.verify)
app.add_typer(_trust.app, name="trust")
app.command(epilog="Example: edge-stl doctor --work ssd/work")(_doctor.doctor)
app.command(
    epilog="Example: edge-stl simulate plan.toml photos/train --test photos/test --boxes 6 -o run"
)(_simulate.simulate)
app.command(epilog="Example: edge-stl compare plan.toml photos --methods ensemble,full -o run")(
    _compare.compare
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; by default those of the process.

    Returns:
        the exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    asked: list[int] = []
    try:
        with _termination_as_interrupt(asked):
            code = app(args=arguments, prog_name="edge-stl", standalone_mode=False)
        if code == _TYPER_INTERRUPTED:
            raise KeyboardInterrupt  # noqa: TRY301
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (BrokenPipeError, SystemExit):  # typer leaves by SystemExit on a broken pipe alone
        # Whoever read our output has enough of it; keep the interpreter from trying again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail(Interrupted(_STOPPED), debug=debug)
    except Exception as error:  # noqa: BLE001  (the last door: a person gets a line, not a traceback)
        # some libraries turn what a signal raises in them into an error of their own
        if asked and not isinstance(error, Interrupted):
            return _fail(Interrupted(_STOPPED), debug=debug)
        return _fail(error if isinstance(error, EdgeStlError) else _known(error), debug=debug)


@contextmanager
def _termination_as_interrupt(asked: list[int]) -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that both are answered by a line and exit code 30.

    `train` takes both over once it has something to save.

    Args:
        asked: gets the number of a signal that came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return

    def stop(number: int, _: object) -> None:
        asked.append(number)
        raise StopNow

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # a command in the background of a script
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: not set by Python, and nothing that Python could set again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _known(error: Exception) -> EdgeStlError:
    """Turn what the command-line parser and the operating system raise into our errors."""
    if hasattr(error, "format_message"):  # click's and typer's wrong-use errors
        if hasattr(error, "exit_code") and type(error).__name__ == "NoArgsIsHelpError":
            return UsageError("no command given; see edge-stl --help")
        return UsageError(f"{error.format_message()} See --help")
    if type(error).__name__ == "Abort":
        return Interrupted(_STOPPED)
    if ran_out_of_memory(error):
        return ResourceError(OUT_OF_MEMORY)
    text = str(error).strip().splitlines()
    first = text[0] if text else "no message"
    return EdgeStlError(
        f"unexpected {type(error).__name__}: {first}. Run again with --debug and report it"
    )


def _fail(error: EdgeStlError, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    line = " ".join(str(error).splitlines())
    print(f"edge-stl: {line}", file=sys.stderr)
    return error.exit_code
