"""What no honest box writes, told without any image: refused; what it hardly writes: a note.

Nothing here finds a back door that was trained in.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_stl.plan import Plan, networks


if TYPE_CHECKING:
    from exporter.read import BranchFile


LARGEST_NUMBER = 1e6
"""Of a tensor. Batch norm folded into a layer multiplies by 316 at most (a variance of 0), so
trained numbers end in the hundreds; activations of layers above this leave float32."""

UNUSUAL_NUMBER = 1e3
"""Above this a number is noted: a channel that never varied, or a box that wants to be heard."""

MOST_MULTIPLY_ADDS = 10**12
"""Of a branch for one image: ten seconds and more of a desktop processor."""

MOST_ACTIVATIONS = 1 << 28
"""Numbers of two neighbouring layers for one image: a GiB of memory."""

_TOLD = 10
"""Reasons of one kind that are told one by one; a plan may have thousands of classes."""

_ROUNDED = 1e-5
"""Share by which a loss of six digits may be below what it is computed to be."""

_SAME_ANSWER = 1e-3
"""Largest difference of logits, as a share of the largest; sums may be taken in another order."""

_SMALLEST = float(np.finfo(np.float32).tiny)


def implausible_numbers(name: str, array: NDArray[np.float32]) -> list[str]:
    """Return what cannot be right with a tensor, phrases that follow its name.

    Args:
        name: of the tensor; the one of a layer's ``weight`` tells more.
        array: its numbers, float32.
    """
    finite = np.isfinite(array)
    if not finite.all():
        return [f"has {int((~finite).sum())} numbers that are NaN or infinite"]
    sizes = np.abs(array)
    largest = float(sizes.max(initial=0))
    found = []
    if largest > LARGEST_NUMBER:
        found.append(f"has numbers up to {largest:.3g}; at most {LARGEST_NUMBER:.0e} can be right")
    if name.endswith("weight") and not largest:
        found.append("is 0 throughout, which no training leaves")
    # Denormal numbers are a hundred times slower on many processors, and an agent writes none.
    denormal = int(np.count_nonzero((sizes < _SMALLEST) & (sizes > 0)))
    if denormal:
        found.append(f"has {denormal} numbers below {_SMALLEST:.3g}, which an agent rounds to 0")
    return found


def implausible_answers(together: NDArray[np.float32], apart: NDArray[np.float32]) -> str | None:
    """Return what is wrong with what a graph of a box's own answers to images, or None.

    Args:
        together: logits ``(N, K)`` of a batch.
        apart: of every image alone.
    """
    if not np.isfinite(together).all() or not np.isfinite(apart).all():
        return "answers its test vector with NaN or infinite logits"
    largest = max(1.0, float(np.abs(apart).max()))
    if float(np.abs(together - apart).max()) > _SAME_ANSWER * largest:
        return "answers an image otherwise beside another image than alone"
    return None


def flushed(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the array with numbers too small for float32's full precision rounded to 0."""
    tiny = (np.abs(array) < _SMALLEST) & (array != 0)
    return np.where(tiny, np.float32(0), array) if tiny.any() else array


def implausible_scores(
    train: Sequence[int],
    validation: Sequence[int],
    *,
    accuracy: float | None,
    log_loss: float,
    classes: Sequence[str],
) -> list[str]:
    """Return why the images that a box counts and the scores on them cannot both be true.

    A box holds back at most half of the images of a class, rounded, and none of a class that it
    does not train on; a class without validation images counts as chance in the loss.

    Args:
        train: images per class ``(K,)``, as published.
        validation: likewise.
        accuracy: on the validation images; None where there are none.
        log_loss: L of the fusion, in nats.
        classes: names of the K classes.
    """
    found = []
    for name, own, held in zip(classes, train, validation, strict=True):
        if held > (own + 1 if own else 0):
            found.append(
                f"images.validation counts {held} of {name!r}, of which images.train counts {own}; "
                "a box holds back at most half of a class, and nothing of one it has not trained on"
            )
    seen = sum(n > 0 for n in train)
    missed = sum(n > 0 and not held for n, held in zip(train, validation, strict=True))
    least = missed / seen * math.log(seen) if seen else 0.0
    if log_loss < least * (1 - _ROUNDED):
        found.append(
            f"validation.log_loss is {log_loss:.6g}, with no validation image of {missed} of "
            f"{seen} classes, which count as chance; it is {least:.6g} at least"
        )
    if accuracy is not None and not any(validation):
        found.append(f"validation.accuracy is {accuracy:.6g}, and images.validation counts nothing")
    return found[:_TOLD] + ([f"{len(found) - _TOLD} more of the kind"] if found[_TOLD:] else [])


def too_costly(plan: Plan, branch_name: str) -> list[str]:
    """Return why a branch costs more than a desk spends on one image; nothing when it does not.

    The plan in a stranger's file says how large its images are: a small file can ask for a
    network whose layers fill the memory.
    """
    branch = plan.branch(branch_name)
    channels, size = plan.band_channels(branch), plan.band_size(branch)
    held, work = channels * size * size, 0
    if branch.own is None:  # a graph is asked itself, when it is read: `exporter.own_shapes`
        layers = plan.layers(branch)
        for _, step in networks.leaves(layers, channels=channels, size=size):
            held = max(held, math.prod(step.before) + math.prod(step.after))
        work = networks.multiply_adds(layers, channels=channels, size=size)
    return [
        f"branch {branch_name} takes {amount:,} {what} for an image; a desk runs at most {most:,}"
        for amount, what, most in (
            (held, "numbers in memory", MOST_ACTIVATIONS),
            (work, "multiply-adds", MOST_MULTIPLY_ADDS),
        )
        if amount > most
    ]


def notes_of(files: Sequence["BranchFile"]) -> tuple[str, ...]:
    """Return what is unusual about branch files and may be right, a sentence each."""
    found = []
    for file in files:
        for name, array in file.parameters.items():
            largest = float(np.abs(array).max(initial=0))
            if largest > UNUSUAL_NUMBER:
                found.append(
                    f"{file.manifest.id}: tensor {name} has numbers up to {largest:.3g}; trained "
                    f"ones stay below {UNUSUAL_NUMBER:.0f}. Look at what its box was given"
                )
    return tuple(found)
