"""A picture of what each box sees and how it votes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stl.bands import bank
from edge_stl.errors import DataError, UsageError
from edge_stl.images import scan
from edge_stl.plan import Plan
from edge_stl.predict import Ensemble


_COLUMNS = 2
_LOOKED_AT = 400
_RIGHT, _WRONG, _OTHER = "#2b7a3d", "#b3362b", "#b9c2cc"


def votes_picture(plan: Plan, ensemble: Ensemble, test: Path) -> bytes:
    """Return a PNG: for two test images, each box's own picture, its bands and its probabilities.

    The images are the first two that the ensemble gets right although a branch gets them wrong:
    there one sees what merging is for.

    Args:
        plan: the plan.
        ensemble: of at most a handful of branches; the first six are shown.
        test: labelled images.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise UsageError("pictures need matplotlib: pip install 'edge-stl[plot]'") from None

    chosen = _chosen(ensemble, test)
    shown = ensemble.branches[:6]
    rows = len(shown) + 1
    figure, axes = plt.subplots(
        rows,
        3 * len(chosen),
        figsize=(4.6 * len(chosen), 1.35 * rows + 0.6),
        gridspec_kw={"width_ratios": [1, 1, 2.2] * len(chosen)},
        squeeze=False,
    )
    for column, (pixels, label) in enumerate(chosen):
        answer, each = ensemble.run(pixels[None])
        for row, identity in enumerate(shown):
            place = axes[row, 3 * column : 3 * column + 3]
            branch, _, box = identity.partition(".")
            native = ensemble.native_resolutions[row]
            image, bands = _seen(plan, branch, pixels, native)
            _show(place[0], image, f"{box}: {native} px")
            _show(place[1], bands, " ".join(plan.branch(branch).bands))
            _bars(place[2], each[0, row], label, ensemble.classes, title="says")
        place = axes[-1, 3 * column : 3 * column + 3]
        _show(place[0], pixels / 255, f"image: {ensemble.classes[label]}")
        place[1].axis("off")
        _bars(place[2], answer[0], label, ensemble.classes, title="ensemble says", names=True)
    figure.tight_layout(h_pad=0.6, w_pad=0.5)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return file.getvalue()


def _chosen(ensemble: Ensemble, test: Path) -> list[tuple[NDArray[np.uint8], int]]:
    images = scan(test, ensemble.classes)
    order = np.random.default_rng(0).permutation(len(images))[:_LOOKED_AT]
    best: list[tuple[int, int]] = []
    prepared = {}
    for index in order:
        try:
            prepared[int(index)] = ensemble.prepare(images.path(int(index)))
        except DataError:
            continue
    keys = list(prepared)
    answers, each = ensemble.run(np.stack([prepared[k] for k in keys]))
    for position, key in enumerate(keys):
        label = int(images.labels[key])
        wrong = int((each[position].argmax(axis=1) != label).sum())
        right = int(answers[position].argmax() == label)
        best.append((-right * (1 + (0 < wrong < each.shape[1])), position))
    best.sort()
    taken: list[tuple[NDArray[np.uint8], int]] = []
    for _, position in best:
        label = int(images.labels[keys[position]])
        if all(label != other for _, other in taken):
            taken.append((prepared[keys[position]], label))
        if len(taken) == _COLUMNS:
            break
    return taken


def _seen(
    plan: Plan, branch: str, pixels: NDArray[np.uint8], native: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the image at the box's resolution and its bands side by side, both in 0..1."""
    factor = pixels.shape[0] // native
    unit = pixels.astype(np.float64) / 255
    small = unit.reshape(native, factor, native, factor, -1).mean(axis=(1, 3))
    names = plan.branch(branch).bands
    filters = bank(plan.bank, native_level=plan.native_level(native), bands=names)
    split = filters.analyze(small.transpose(2, 0, 1))
    lowpass = plan.bank.bands()[0]
    tiles = []
    for name in names[:4]:
        values = split[name].transpose(1, 2, 0)
        if not (name.startswith("cA") or name == lowpass):
            strongest = max(float(np.abs(values).max()), 1 / 255)
            values = 0.5 + values / (2 * strongest)
        tiles.append(np.pad(values, ((0, 1), (0, 1), (0, 0)), constant_values=1.0))
    if len(tiles) == 1:
        return small, tiles[0][:-1, :-1]
    while len(tiles) % 2:
        tiles.append(np.ones_like(tiles[0]))
    half = len(tiles) // 2
    top, bottom = np.concatenate(tiles[:half], axis=1), np.concatenate(tiles[half:], axis=1)
    return small, np.concatenate([top, bottom])


def _show(axis: Any, image: NDArray[np.floating], title: str) -> None:
    grey = image.shape[2] == 1
    axis.imshow(
        np.clip(image[:, :, 0] if grey else image, 0, 1),
        cmap="gray" if grey else None,
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axis.set_title(title, fontsize=7)
    axis.set_xticks([])
    axis.set_yticks([])


def _bars(
    axis: Any,
    probabilities: NDArray[np.floating],
    label: int,
    classes: tuple[str, ...],
    *,
    title: str,
    names: bool = False,
) -> None:
    top = int(probabilities.argmax())
    colours = [_OTHER] * len(classes)
    colours[top] = _RIGHT if top == label else _WRONG
    axis.bar(range(len(classes)), probabilities, color=colours)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 1])
    axis.tick_params(labelsize=6)
    axis.set_title(f"{title} {classes[top]} ({probabilities[top]:.0%})", fontsize=7)
    few = len(classes) <= 20  # noqa: PLR2004  (more names than that do not fit)
    axis.set_xticks(range(len(classes)) if few else [])
    longest = max(len(name) for name in classes)
    if names and few:
        axis.set_xticklabels(classes, fontsize=6, rotation=0 if longest <= 2 else 90)  # noqa: PLR2004
    else:
        axis.set_xticklabels([])
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
