"""A trained network of the user's own through `torch.onnx.export`.

What comes out is torch's: opset 18, with names, paths and source lines of this machine. It goes
nowhere but to `exporter.own_export`, which takes the operators and the numbers and leaves the rest.
"""

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from edge_stl.errors import CheckError, UsageError, ran_out_of_memory


_OPSET = 18
"""The lowest that torch's exporter can write."""

_NEEDED = ("onnx", "onnxscript")


def need_exporter() -> None:
    """Refuse to begin what could not be exported in the end.

    Raises:
        UsageError: naming what is missing and how to get it.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"a network of one's own needs {' and '.join(missing)}: pip install 'edge-stl[own]'"
        )


def exported_module(module: nn.Module, shape: tuple[int, ...], *, where: str) -> bytes:
    """Return a module in evaluation mode as a serialized ONNX model of torch's.

    Args:
        module: maps ``(N, channels, size, size)`` to ``(N, classes)``; it is copied.
        shape: ``(channels, size, size)``.
        where: what is exported, for messages.

    Raises:
        CheckError: torch cannot export it.
        UsageError: a package is missing.
    """
    need_exporter()
    module = copy.deepcopy(module).cpu().eval()
    module.requires_grad_(requires_grad=False)
    try:
        with _silent():
            program = torch.onnx.export(
                module,
                (torch.zeros(2, *shape),),
                dynamo=True,
                external_data=False,
                opset_version=_OPSET,
                input_names=["bands"],
                output_names=["logits"],
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
        if program is None:
            raise TypeError("torch exported nothing")  # noqa: TRY301  (as any failure of it)
        data: bytes = program.model_proto.SerializeToString(deterministic=True)
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise CheckError(
            f"{where}: torch cannot export it: {_reason(error)}; expected a network that "
            "torch.onnx.export takes. See docs/own-networks.md"
        ) from None
    return data


def _reason(error: BaseException) -> str:
    """Return the first line of what an error came from: torch wraps it in a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter's notes on other libraries away from a person and from ``--json``."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
