"""A reader of the few pickle opcodes that CIFAR-10's Python batches are made of.

A pickle is a program; running one that somebody else wrote runs their code. This reader runs
nothing: ``pickletools.genops`` cuts the bytes into opcodes, and a small stack machine keeps
text, bytes, whole numbers, None, lists, tuples and dicts. The one object it knows is numpy's
array of uint8, written by numpy as

    _reconstruct(ndarray, (0,), "b")  then  BUILD (1, shape, dtype("u1", 0, 1), False, data)

The four names in it are compared as text. None is ever imported or called; a file with any other
name, and any opcode that is not in the table below, is refused.
"""

import math
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_stl.errors import DataError


MOST_BYTES = 1 << 25  # the published batches have 31 MB
_MOST_AXES = 4
_MOST_OPCODES = 200_000  # the published batches have about 40,000: bounds memory on any file


@dataclass(slots=True)
class PickledArray:
    """A uint8 array of a pickle: ``data`` has ``prod(shape)`` bytes, the last axis fastest."""

    shape: tuple[int, ...] = ()
    data: bytes = b""


class _Dtype:
    """Stands for ``numpy.dtype("u1")``, the only one known here."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A global's name, as text."""

    text: str


_RECONSTRUCT = _Name("_reconstruct")
_NDARRAY = _Name("ndarray")
_DTYPE = _Name("dtype")
_NAMES = {
    "numpy.core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _RECONSTRUCT,
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _DTYPE,
}


class _RefusedError(ValueError):
    """What the file does that no batch does; becomes a DataError with the path."""


def read_pickled(path: Path) -> dict[str, object]:
    """Read the dict in a CIFAR-10 Python batch or ``batches.meta`` without unpickling it.

    Args:
        path: the file.

    Returns:
        The dict; keys are text, the array is a ``PickledArray``.

    Raises:
        DataError: the file holds anything but plain data and one kind of array.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise DataError(
            f"{path}: {size} bytes; expected a CIFAR-10 batch of at most {MOST_BYTES}. "
            "Get the file again."
        )
    try:
        # genops warns about odd escapes in old text opcodes; that is nobody's business here
        with warnings.catch_warnings(action="ignore"):
            value = _run(path.read_bytes())
        if not isinstance(value, dict):
            raise _RefusedError(f"the value is a {type(value).__name__}")
    except ValueError as error:
        raise DataError(
            f"{path}: not read ({error!s:.200}); expected a plain dict with a uint8 array, as in "
            "CIFAR-10's Python batches. Nothing of it was run; get the file again."
        ) from error
    return value


def text_of(value: object) -> str:
    """Return the text of a Python 2 or 3 string, or refuse it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    raise _RefusedError(f"a {type(value).__name__} where text belongs")


def _run(data: bytes) -> object:
    machine = _Machine()
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        step = _STEPS.get(opcode.name)
        if step is None:
            raise _RefusedError(f"opcode {opcode.name} at byte {position}")
        if count >= _MOST_OPCODES:
            raise _RefusedError(f"more than {_MOST_OPCODES} opcodes")
        step(machine, argument)
    return machine.pop()  # genops ends after STOP, or raises ValueError where there is none


class _Machine:
    """The stack, the marks on it, and the memo of a pickle program."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def pop(self) -> object:
        if not self._stack:
            raise _RefusedError("takes from an empty stack")
        return self._stack.pop()

    def top(self) -> object:
        if not self._stack:
            raise _RefusedError("looks at an empty stack")
        return self._stack[-1]

    def _above_mark(self) -> list[object]:
        if not self._marks:
            raise _RefusedError("there is no mark on the stack")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def ignore(self, _argument: object) -> None:
        """PROTO, FRAME, STOP: nothing to do."""

    def push(self, argument: object) -> None:
        self._stack.append(argument)

    def mark(self, _argument: object) -> None:
        self._marks.append(len(self._stack))

    def put(self, argument: object) -> None:
        if not isinstance(argument, int):
            raise _RefusedError("a memo index that is no number")
        self._memo[argument] = self.top()

    def memoize(self, _argument: object) -> None:
        self._memo[len(self._memo)] = self.top()

    def get(self, argument: object) -> None:
        if not isinstance(argument, int) or argument not in self._memo:
            raise _RefusedError("reads a memo entry that was never written")
        self.push(self._memo[argument])

    def append(self, _argument: object) -> None:
        self._extend([self.pop()])

    def appends(self, _argument: object) -> None:
        self._extend(self._above_mark())

    def _extend(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise _RefusedError(f"appends to a {type(target).__name__}")
        target.extend(values)

    def set_item(self, _argument: object) -> None:
        value = self.pop()
        self._update([self.pop(), value])

    def set_items(self, _argument: object) -> None:
        self._update(self._above_mark())

    def _update(self, pairs: list[object]) -> None:
        target = self.top()
        if not isinstance(target, dict):
            raise _RefusedError(f"sets a key of a {type(target).__name__}")
        target.update(_paired(pairs))

    def new_dict(self, _argument: object) -> None:
        self.push({})

    def new_list(self, _argument: object) -> None:
        self.push([])

    def new_tuple(self, _argument: object) -> None:
        self.push(())

    def marked_dict(self, _argument: object) -> None:
        self.push(_paired(self._above_mark()))

    def marked_list(self, _argument: object) -> None:
        self.push(self._above_mark())

    def marked_tuple(self, _argument: object) -> None:
        self.push(tuple(self._above_mark()))

    def tuple1(self, _argument: object) -> None:
        self.push((self.pop(),))

    def tuple2(self, _argument: object) -> None:
        last = self.pop()
        self.push((self.pop(), last))

    def tuple3(self, _argument: object) -> None:
        last, middle = self.pop(), self.pop()
        self.push((self.pop(), middle, last))

    def name(self, argument: object) -> None:
        known = _NAMES.get(str(argument))
        if known is None:
            raise _RefusedError(f"names {str(argument)[:80]!r}")
        self.push(known)

    def stacked_name(self, _argument: object) -> None:
        last = text_of(self.pop())
        self.name(f"{text_of(self.pop())} {last}")

    def reduce(self, _argument: object) -> None:
        arguments, function = self.pop(), self.pop()
        if function is _RECONSTRUCT and arguments in _RECONSTRUCT_ARGUMENTS:
            self.push(PickledArray())
        elif function is _DTYPE and arguments in _DTYPE_ARGUMENTS:
            self.push(_Dtype())
        else:
            raise _RefusedError("a call other than numpy's for a new uint8 array")

    def build(self, _argument: object) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, _Dtype):
            return  # byte order and alignment: a uint8 has neither
        if not isinstance(target, PickledArray):
            raise _RefusedError(f"sets the state of a {type(target).__name__}")
        target.shape, target.data = _array_state(state)


# comparing tuples compares _Name by text, str with str, bytes with bytes
_RECONSTRUCT_ARGUMENTS = ((_NDARRAY, (0,), "b"), (_NDARRAY, (0,), b"b"))
_DTYPE_ARGUMENTS = (("u1", 0, 1), (b"u1", 0, 1))


def _paired(values: list[object]) -> dict[str, object]:
    if len(values) % 2:
        raise _RefusedError("a key without a value")
    return {text_of(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _array_state(state: object) -> tuple[tuple[int, ...], bytes]:
    match state:
        case (1, tuple(shape), _Dtype(), False | 0, str() | bytes() as data):
            raw = data.encode("latin-1") if isinstance(data, str) else data
            # bounded before they are multiplied: a pickled number may have any length
            sides = tuple(s for s in shape if type(s) is int and 0 <= s <= MOST_BYTES)
            if len(sides) != len(shape) or len(sides) > _MOST_AXES:
                raise _RefusedError(f"an array shape that is not at most {_MOST_AXES} sizes")
            if math.prod(sides) != len(raw):
                raise _RefusedError(f"an array of {len(raw)} bytes claims shape {sides}")
            return sides, raw
    raise _RefusedError("an array state other than that of a C-ordered uint8 array")


_STEPS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": _Machine.ignore,
    "FRAME": _Machine.ignore,
    "STOP": _Machine.ignore,
    "MARK": _Machine.mark,
    "EMPTY_DICT": _Machine.new_dict,
    "EMPTY_LIST": _Machine.new_list,
    "EMPTY_TUPLE": _Machine.new_tuple,
    "DICT": _Machine.marked_dict,
    "LIST": _Machine.marked_list,
    "TUPLE": _Machine.marked_tuple,
    "TUPLE1": _Machine.tuple1,
    "TUPLE2": _Machine.tuple2,
    "TUPLE3": _Machine.tuple3,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "NONE": _Machine.push,
    "NEWTRUE": lambda machine, _argument: machine.push(argument=True),
    "NEWFALSE": lambda machine, _argument: machine.push(argument=False),
    **dict.fromkeys(
        (
            "INT",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG",
            "LONG1",
            "STRING",
            "BINSTRING",
            "SHORT_BINSTRING",
            "UNICODE",
            "BINUNICODE",
            "SHORT_BINUNICODE",
            "BINBYTES",
            "SHORT_BINBYTES",
        ),
        _Machine.push,
    ),
}
