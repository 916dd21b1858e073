"""What keeps a merge of many branch files small: numbers held once, free memory given back."""

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


_WORTH = 1 << 16
"""Bytes of a tensor from which on sharing saves more than it costs."""


def hold_once(files: Sequence[dict[str, NDArray[np.float32]]], model: bytes) -> None:
    """Replace the large tensors of branch files by views of the same bytes in their ensemble.

    Files and ensemble are of one size, and what follows, the checker and onnxruntime, needs that
    memory. A tensor whose bytes are not found stays as it is: the values never change.

    Args:
        files: the parameters of each, in the order of the ensemble; changed in place.
        model: its bytes.
    """
    at = 0
    for parameters in files:
        for name, array in parameters.items():
            if array.nbytes < _WORTH:
                continue
            found = model.find(array.astype("<f4", copy=False).tobytes(), at)
            if found >= 0:
                at = found
                view = np.frombuffer(model, dtype="<f4", count=array.size, offset=at)
                parameters[name] = view.reshape(array.shape)
    give_back()


def give_back() -> None:
    """Give freed memory back to the system, where the C library is one that keeps it.

    glibc keeps blocks of the size of a tensor for the next use, and onnxruntime has no use for
    what Python freed. Elsewhere nothing happens.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return
    trim(0)
