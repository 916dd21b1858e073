"""The manifest of a branch file: what its box says of it, strict and closed.

It holds no path, no file name, no image, no host name and no time.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from edge_stl.bands import FEWEST_IMAGES, KERNELS, Kernel, Sharpness
from edge_stl.fusion import Member
from edge_stl.gate import MANIFEST_CAPS, strict_json
from edge_stl.plan import Plan, describe, plan_from_document
from exporter import names
from exporter.cotrained import Cotrained, Name
from exporter.plausible import implausible_scores, too_costly


MOST_CLASSES = 10_000
"""Of a plan."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=10**12)]
PerClass = Annotated[tuple[Count, ...], Field(max_length=MOST_CLASSES)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_VECTOR_IMAGES = 2
Row = Annotated[tuple[Finite, ...], Field(max_length=MOST_CLASSES)]
Energy = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Three = tuple[Energy, Energy, Energy]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Images(_Record):
    """Image counts per class, in the plan's class order."""

    train: PerClass
    validation: PerClass


class Validation(_Record):
    """Scores on the box's own validation images; accuracy is null where there were none.

    ``log_loss`` is L of the fusion: the mean over seen classes of the per-class mean of ``-log
    p``, in nats; a class without validation images counts ``log |S|``, that is, as chance. Boxes
    take no p below 1e-12, whose loss is 27.6.
    """

    accuracy: Annotated[float, Field(ge=0, le=1)] | None
    log_loss: Annotated[float, Field(ge=0, le=28)]


class TrainingRecord(_Record):
    """The settings the branch was trained with."""

    epochs: int = Field(ge=1, le=100_000)
    seed: int = Field(ge=0, lt=2**63)
    batch_size: int = Field(ge=1, le=65_536)
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    threads: int = Field(ge=1, le=65_536)
    device: Annotated[str, Field(pattern="^(cpu|cuda)$")]


class TestVector(_Record):
    """A seeded input and what the network says to it, so that any machine can check itself."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    seed: int = Field(ge=0, lt=2**32)
    logits: Annotated[tuple[Row, ...], Field(max_length=_VECTOR_IMAGES)]


class Camera(_Record):
    """How sharp the box's images are: `edge_stl.bands.Sharpness` as JSON, sides as text."""

    images: Annotated[int, Field(ge=FEWEST_IMAGES, le=10**12)]
    native: Three
    coarser: Annotated[
        dict[Annotated[str, Field(pattern="^[1-9][0-9]{0,3}$")], dict[Kernel, Three]],
        Field(max_length=16),
    ]

    @classmethod
    def of(cls, found: Sharpness) -> Self:
        """Return the record of what was measured."""
        return cls(
            images=found.images,
            native=found.native,
            coarser={str(side): dict(kernels) for side, kernels in found.coarser.items()},
        )


class Manifest(_Record):
    """Everything a branch file says beside its numbers."""

    format: Literal[1]
    builder: Literal[1]
    plan_digest: Digest
    branch: Name
    box: Name
    network: Annotated[str, Field(max_length=64)]
    native_resolution: int = Field(ge=1)
    images: Images
    validation: Validation
    temperature: Annotated[float, Field(ge=0.05, le=20)]
    training: TrainingRecord
    versions: Annotated[
        dict[Annotated[str, Field(pattern="^[a-z_]{1,32}$")], Annotated[str, Field(max_length=64)]],
        Field(max_length=32),
    ]
    test_vector: TestVector
    camera: Camera | None = None
    cotrained: Cotrained | None = None

    @model_validator(mode="after")
    def _group_is_no_member(self) -> Self:
        if self.cotrained is not None and self.box in self.cotrained.boxes:
            raise ValueError(
                f"cotrained.boxes: has {self.box}, which the file itself is called; expected an "
                "id of the group's own in box"
            )
        return self

    @model_validator(mode="after")
    def _settings_are_those_of_training(self) -> Self:
        made = self.cotrained and self.cotrained.settings
        if made:
            for key, own, other in (
                ("batch", made.batch, "batch_size"),
                ("rate", made.rate, "learning_rate"),
                ("weight_decay", made.weight_decay, "weight_decay"),
            ):
                said = getattr(self.training, other)
                if own != said:
                    raise ValueError(
                        f"cotrained.settings.{key}: is {own:g}, training.{other} is {said:g}; "
                        "expected the same"
                    )
        return self

    @property
    def id(self) -> str:
        """Return ``branch.box``, the name of the branch file."""
        return f"{self.branch}.{self.box}"

    def member(self) -> Member:
        """Return what the fusion needs to know."""
        return Member(
            branch=self.branch,
            box=self.box,
            counts=self.images.train,
            temperature=self.temperature,
            log_loss=self.validation.log_loss,
            validation=sum(self.images.validation),
        )

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values, without the plan."""
        document = self.model_dump(mode="json")
        for key in ("camera", "cotrained"):
            if document[key] is None:  # absent, so that files that say nothing keep their bytes
                del document[key]
        return document


def manifest_text(manifest: Manifest, plan: Plan) -> str:
    """Return canonical JSON of manifest and plan, as a branch file carries it."""
    return canonical_json(manifest.to_document() | {"plan": plan.to_document()})


def canonical_json(document: Any) -> str:
    """Return JSON with sorted keys and no spaces, UTF-8 as it is, no NaN."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def parse_manifest(text: str) -> tuple[Manifest, Plan]:
    """Read a manifest and the plan in it.

    Raises:
        ValueError: the text is no manifest; the message names every wrong key.
        UsageError: the plan in it is not valid.
    """
    document = strict_json(text, MANIFEST_CAPS)
    if not isinstance(document, dict) or "plan" not in document:
        raise ValueError("the manifest has no plan")
    plan = plan_from_document(document.pop("plan"), where="its plan")
    return manifest_of(document), plan


def manifest_of(document: Any) -> Manifest:
    """Validate a manifest given as plain JSON values, without the plan.

    Raises:
        ValueError: it is no manifest; the message names every wrong key.
    """
    try:
        return Manifest.model_validate_json(json.dumps(document, allow_nan=False))
    except ValidationError as error:
        raise ValueError(describe(error, Manifest)) from None


def disagreements(manifest: Manifest, plan: Plan) -> list[str]:
    """Return why a manifest does not fit the plan; nothing when it does."""
    classes = len(plan.classes)
    reasons = []
    if manifest.plan_digest != plan.digest:
        reasons.append(
            f"says plan digest {manifest.plan_digest[:12]}, the plan in it has {plan.digest[:12]}"
        )
    for part, counts in (
        ("train", manifest.images.train),
        ("validation", manifest.images.validation),
    ):
        if len(counts) != classes:
            reasons.append(f"images.{part} counts {len(counts)} classes, the plan has {classes}")
    if not any(manifest.images.train):
        reasons.append("images.train counts no image at all")
    vector = manifest.test_vector.logits
    if len(vector) != _VECTOR_IMAGES or any(len(row) != classes for row in vector):
        reasons.append(f"test_vector.logits is not {_VECTOR_IMAGES} rows of {classes} numbers")
    names_ = [branch.name for branch in plan.branches]
    if manifest.branch not in names_:
        reasons.append(f"branch {manifest.branch!r} is not in its plan; the plan has {names_}")
        return reasons
    branch = plan.branch(manifest.branch)
    if manifest.network != branch.network:
        reasons.append(
            f"network is {manifest.network!r}, the plan has {branch.network!r} for {branch.name}"
        )
    if manifest.native_resolution not in plan.resolutions:
        reasons.append(
            f"native resolution {manifest.native_resolution} is none of the plan's "
            f"{list(plan.resolutions)}"
        )
    elif manifest.native_resolution < plan.required_resolution(branch):
        reasons.append(
            f"native resolution {manifest.native_resolution} does not carry branch {branch.name}, "
            f"which needs {plan.required_resolution(branch)}"
        )
    reasons += _score_reasons(manifest, plan)
    return reasons + too_costly(plan, branch.name) + _camera_reasons(manifest, plan)


def _score_reasons(manifest: Manifest, plan: Plan) -> list[str]:
    """Return why counts and scores cannot both be true, where there is a count for every class."""
    images, scores = manifest.images, manifest.validation
    if not len(images.train) == len(images.validation) == len(plan.classes):
        return []
    return implausible_scores(
        images.train,
        images.validation,
        accuracy=scores.accuracy,
        log_loss=scores.log_loss,
        classes=plan.classes,
    )


def _camera_reasons(manifest: Manifest, plan: Plan) -> list[str]:
    """Return what a camera's numbers say of resolutions that the box cannot speak of."""
    camera, native = manifest.camera, manifest.native_resolution
    if camera is None:
        return []
    below = {str(side) for side in plan.resolutions if side < native}
    reasons = [
        f"camera.coarser has {side!r}; its images of {native} px can be made {sorted(below)}"
        for side in sorted(set(camera.coarser) - below)
    ]
    reasons += [
        f"camera.coarser.{side} lacks {', '.join(missing)}"
        for side, kernels in sorted(camera.coarser.items())
        if (missing := [kernel for kernel in KERNELS if kernel not in kernels])
    ]
    return reasons


def vector_input(seed: int, *, channels: int, size: int) -> NDArray[np.float32]:
    """Return the seeded test input ``(2, channels, size, size)`` float32 in [-0.5, 0.5).

    The raw stream of PCG64 is stable across numpy versions; its distributions are not promised.
    """
    count = _VECTOR_IMAGES * channels * size * size
    raw = np.random.PCG64(seed).random_raw(count)
    unit = (raw >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return (unit - np.float32(0.5)).reshape(_VECTOR_IMAGES, channels, size, size)


def sha256(data: bytes) -> str:
    """Return the sha256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


assert names.FORMAT == names.BUILDER == 1  # noqa: S101  (the literals above must follow)
