"""By which kernel did a coarse camera make its images? Told from the numbers boxes publish.

A branch that learned on images of another kernel than the plan's area averaging gets, in the
ensemble, its own kernel. Which that is shows in two log-ratios of `Sharpness`: of the finest axis
details to those one level coarser, and of diagonal to axis details at the finest level. The
finer boxes of the fleet publish what both would be for each kernel; a holdout at the desk does too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_stl.bands import KERNELS, Energies, Kernel, Sharpness, most_images, sharpness
from edge_stl.errors import DataError
from edge_stl.images import UnreadableImage, decode, fit_square, scan
from exporter.manifest import Camera


if TYPE_CHECKING:
    from edge_stl.plan import Plan
    from exporter.read import BranchFile


_MIXTURE = 0.05
"""Standard deviation of either log-ratio from box to box, by what is in the pictures. Measured on
roadside64: 0.03 and 0.04 over Dirichlet(0.3) mixtures of a thousand images."""

_SAMPLING = 0.5
"""The same from too few images, times the root of their number."""

_EVIDENCE = 3.0
"""Standard deviations by which a camera must be nearer to a kernel than to area averaging."""

_ALIASED = "aliased"
_MATCHED = "resampled"
_EXPECTED = "as expected"
_Point = tuple[float, float]


@dataclass(frozen=True)
class CameraFinding:
    """What the numbers say of the camera behind one branch.

    Attributes:
        box: the box.
        branch: the branch.
        ratio: finest axis details over those one level coarser, relative to area averaging; 1 is
            what the plan assumes, below is softer, above is sharper.
        expected: lowest and highest ratio within noise of area averaging.
        kernel: what the ensemble uses to make the branch's input.
        finding: ``as expected``, ``resampled`` (by another kernel, and matched) or ``aliased``.
    """

    box: str
    branch: str
    ratio: float
    expected: tuple[float, float]
    kernel: Kernel
    finding: str

    @property
    def warning(self) -> str | None:
        """Return what the operator should know and do; None when there is nothing to do."""
        if self.finding != _ALIASED:
            return None
        low, high = self.expected
        return (
            f"{self.branch}.{self.box}: its camera's images are aliased: their finest details are "
            f"{self.ratio:.2f} times what area averaging gives; expected {low:.2f} to {high:.2f}. "
            "The ensemble feeds this branch aliased images too. Let the camera average pixels "
            "instead of skipping them, and train the box again"
        )


def match_cameras(
    files: Sequence["BranchFile"], *, desk: Sharpness | None = None
) -> tuple[tuple["BranchFile", ...], tuple[CameraFinding, ...]]:
    """Give every branch of a coarse box the kernel that its camera shows.

    Each finer box counts once, by the median, whatever it says of the number of its images: so
    one box of three or more cannot set the scale for the others.

    Args:
        files: of one plan.
        desk: of a holdout at the plan's resolution; counts as one box.

    Returns:
        the files, and one finding for each of a coarse box that could be compared.
    """
    plan = files[0].plan
    finer = {f.manifest.box: f.manifest.camera for f in files if f.manifest.camera}
    matched, findings = [], []
    for file in files:
        manifest = file.manifest
        side, kernel = manifest.native_resolution, KERNELS[0]
        if side < plan.input.resolution and manifest.camera is not None:
            others = [camera for box, camera in sorted(finer.items()) if box != manifest.box]
            known = [*others, *([Camera.of(desk)] if desk else [])]
            finding = _compare(file, [c for c in known if str(side) in c.coarser])
            if finding is not None:
                findings.append(finding)
                kernel = finding.kernel
        matched.append(replace(file, kernel=kernel))
    return tuple(matched), tuple(findings)


def _compare(file: "BranchFile", references: Sequence[Camera]) -> CameraFinding | None:
    manifest = file.manifest
    assert manifest.camera is not None  # noqa: S101  (the caller looked)
    own = _point(manifest.camera.native)
    side = str(manifest.native_resolution)
    tables = [
        {kernel: _point(energies) for kernel, energies in camera.coarser[side].items()}
        for camera in references
    ]
    whole = [
        (table, camera.images)
        for table, camera in zip(tables, references, strict=True)
        if None not in table.values()
    ]
    if own is None or not whole:
        return None
    images = median(count for _, count in whole)
    deviation = math.sqrt(_MIXTURE**2 + _SAMPLING**2 * (1 / manifest.camera.images + 1 / images))
    middle: dict[Kernel, _Point] = {
        kernel: tuple(median(t[kernel][axis] for t, _ in whole) for axis in (0, 1))  # type: ignore[index,misc]
        for kernel in KERNELS
    }
    area = middle["area"]
    distance = {kernel: math.dist(own, point) / deviation for kernel, point in middle.items()}
    kernel = min(KERNELS, key=lambda k: distance[k])
    if distance["area"] ** 2 - distance[kernel] ** 2 < _EVIDENCE**2:
        kernel = "area"
    spread = _EVIDENCE * deviation
    return CameraFinding(
        box=manifest.box,
        branch=manifest.branch,
        ratio=round(math.exp(own[0] - area[0]), 3),
        expected=(round(math.exp(-spread), 3), round(math.exp(spread), 3)),
        kernel=kernel,
        finding={"area": _EXPECTED, "nearest": _ALIASED}.get(kernel, _MATCHED),
    )


def _point(energies: Energies) -> _Point | None:
    """Return the two log-ratios; None for images without details, which say nothing."""
    axis, diagonal, coarser = energies
    if not (axis > 0 and diagonal > 0 and coarser > 0):
        return None
    return math.log(axis) - math.log(coarser), math.log(diagonal) - math.log(axis)


def desk_sharpness(folder: Path, plan: "Plan") -> Sharpness | None:
    """Measure the images of a holdout at the plan's resolution; None where they are too few.

    Raises:
        DataError: the folder cannot be used.
    """
    images, side = scan(folder, plan.classes), plan.input.resolution
    count = min(len(images), most_images(side * side * plan.input.channels))
    pixels = []
    for index in np.arange(count) * len(images) // max(1, count):
        try:
            whole = decode(
                images.path(int(index)),
                channels=plan.input.channels,
                max_pixels=plan.limits.max_image_pixels,
                max_bytes=plan.limits.max_image_bytes,
            )
            pixels.append(fit_square(whole, side, plan.input.fit))
        except (UnreadableImage, DataError):  # told with the scores of the same folder
            continue
    empty = np.zeros((0, side, side, plan.input.channels), np.uint8)
    return sharpness(np.stack(pixels) if pixels else empty, coarser=plan.resolutions[1:])


def kernel_entry(file: "BranchFile") -> dict[str, str]:
    """Return what an ensemble's record says of a branch's kernel: nothing for area averaging."""
    return {} if file.kernel == "area" else {"kernel": file.kernel}


def kernel_of(member: Mapping[str, Any], plan: "Plan") -> Kernel:
    """Return the kernel that a member of an ensemble's record has.

    Raises:
        ValueError: there is no such kernel, or one where images are not made coarser.
    """
    named = member.get("kernel", "area")
    side = member["manifest"]["native_resolution"]
    for kernel in KERNELS[: 1 if side == plan.input.resolution else None]:
        if named == kernel:
            return kernel
    raise ValueError(f"kernel {named!r} for images of {side} px")
