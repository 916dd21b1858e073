"""The tables of a plan file, each frozen and strict: an unknown key or a wrong type is refused."""

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


MOST_LEVELS = 8
MOST_BANDS = 128
"""Of a branch; the most that a transform has are 85, of the block DCT of size 8."""

_LONGEST_WORD = 64
NAME_PATTERN = r"[a-z0-9][a-z0-9-]{0,31}"
OWN = "own:"
"""Before the name of a network that is no preset: who trains has an entry point of that name."""


def _text(value: str) -> str:
    """Normalize to NFC, so that one visible name is one name; refuse what no path can hold."""
    text = unicodedata.normalize("NFC", value)
    if not text or text != text.strip() or text.startswith("."):
        raise ValueError("must not be empty, begin with '.', or have spaces around it")
    if any(c in "/\\" or unicodedata.category(c).startswith("C") for c in text):
        raise ValueError("must not have '/', '\\' or control characters")
    if len(text.encode()) > 200:  # noqa: PLR2004  (file systems end at 255 bytes)
        raise ValueError("must not be longer than 200 bytes")
    return text


ClassName = Annotated[str, AfterValidator(_text)]
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Word = Annotated[str, Field(max_length=_LONGEST_WORD)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """What all tables share: frozen, strict, closed."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Input(Section):
    """What an image becomes before analysis: ``(R, R, channels)`` uint8."""

    resolution: int = Field(ge=1, le=4096)
    channels: Literal[1, 3] = 3
    fit: Literal["crop", "pad", "stretch"] = "crop"


class TransformSection(Section):
    """``kind = "wavelet"`` with ``wavelet`` and ``levels``, or another kind with ``size``."""

    kind: Literal["wavelet", "dct", "stl-dct", "stl-dft"]
    wavelet: str | None = Field(default=None, max_length=_LONGEST_WORD)
    levels: int | None = Field(default=None, ge=0, le=MOST_LEVELS)
    size: int | None = Field(default=None, ge=2, le=9)


class Branch(Section):
    """A named set of bands of one spatial size, and the network that reads them."""

    name: Name
    bands: tuple[Word, ...] = Field(min_length=1, max_length=MOST_BANDS)
    network: Word

    @property
    def own(self) -> str | None:
        """Return the name of a network of the user's own, none for a preset."""
        return self.network.removeprefix(OWN) if self.network.startswith(OWN) else None


class Training(Section):
    """Defaults every box uses unless its own command says otherwise.

    Without ``batch_size`` a box takes 16 up to 5,000 training images, 32 up to 20,000, else 64:
    small sets gain from more steps, large ones from speed.
    """

    epochs: int = Field(default=30, ge=1, le=100_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    validation: float = Field(default=0.1, ge=0, le=0.5)
    batch_size: int | None = Field(default=None, ge=2, le=65_536)
    learning_rate: Positive = 0.003
    weight_decay: NotNegative = 0.01
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class Augment(Section):
    """Random changes in the pixel domain, before analysis; the defaults change nothing."""

    shift: float = Field(default=0.0, ge=0, le=0.5)
    flip: bool = False


class Fusion(Section):
    """What the ensemble assumes: the share of each class, and weights for ``--weights plan``."""

    prior: dict[ClassName, Positive] | None = Field(default=None, max_length=10_000)
    weights: dict[Name, NotNegative] | None = Field(default=None, max_length=1000)


class Privacy(Section):
    """What a branch file tells of the box: counts of seen classes are ``max(n, min_count)``."""

    min_count: int = Field(default=0, ge=0)


class Limits(Section):
    """Caps on what a box and a desk read."""

    max_image_pixels: int = Field(default=100_000_000, ge=1)
    max_image_bytes: int = Field(default=100_000_000, ge=1)
    max_branch_bytes: int = Field(default=64_000_000, ge=1)
