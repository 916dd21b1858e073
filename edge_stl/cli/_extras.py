"""A missing extra says which `pip install` brings it."""

import importlib.util

from edge_stl.errors import UsageError


def need(*modules: str, verb: str, extra: str) -> None:
    """Refuse a verb whose packages are not installed.

    Raises:
        UsageError: naming what is missing and how to get it.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{verb} needs {' and '.join(missing)}: pip install 'edge-stl[{extra}]'")


def need_engine(name: str, *, verb: str) -> None:
    """Refuse an engine whose packages are not installed.

    Args:
        name: ``local``, which trains here and needs torch, or ``ray``.
        verb: what is to be done, like ``training``.

    Raises:
        UsageError: naming what is missing and how to get it.
    """
    if name == "ray":
        need("ray", verb="--engine ray", extra="fleet")
    else:
        need("torch", "onnx", "onnxruntime", verb=verb, extra="train")
