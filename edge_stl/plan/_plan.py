"""The plan: what every box agrees on before it looks at a pixel."""

import hashlib
import json
import re
from collections import Counter
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edge_stl.bands import Transform, wavelet_names
from edge_stl.plan import networks
from edge_stl.plan._nearest import nearest
from edge_stl.plan._sections import (
    NAME_PATTERN,
    OWN,
    Augment,
    Branch,
    ClassName,
    Fusion,
    Input,
    Limits,
    Name,
    Privacy,
    Section,
    Training,
    TransformSection,
)


_MOST_TOLD = 20  # wrong names of a kind, in one sentence


def network_problem(network: str) -> str | None:
    """Return why a text names no network, or None: a preset, or ``own:NAME``.

    Whether there is such an entry point is no matter of the plan: a desk has none.
    """
    if network.startswith(OWN):
        if re.fullmatch(NAME_PATTERN, network.removeprefix(OWN)):
            return None
        return (
            f"{network!r} is not a network; a name after '{OWN}' has small letters, digits and "
            "'-', at most 32"
        )
    if network in networks.preset_names():
        return None
    return (
        f"{network!r} is not a network{nearest(network, networks.preset_names())}; for one of your "
        f"own write '{OWN}NAME'"
    )


SIZES = {
    "dct": ("2, 4 or 8", (2, 4, 8)),
    "stl-dct": ("2 to 9", range(2, 10)),
    "stl-dft": ("2 to 9", range(2, 10)),
}
"""The sizes b of a transform kind, in words and as numbers."""


class Plan(Section):
    """The frozen settings all boxes share; made once, carried to every box, never changed.

    Attributes are the keys of ``plan.toml``; `digest` is stamped into every file made under it.
    """

    format: Literal[1]
    name: Name
    classes: tuple[ClassName, ...] = Field(min_length=2, max_length=10_000)
    input: Input
    transform: TransformSection
    branches: tuple[Branch, ...] = Field(min_length=1, max_length=1000)
    training: Training = Training()
    augment: Augment = Augment()
    fusion: Fusion = Fusion()
    privacy: Privacy = Privacy()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        """Refuse combinations that no box could carry out, all reasons at once."""
        problems = [*self._transform_problems()]
        if not problems:
            problems += [*self._branch_problems()]
        if len(set(self.classes)) < len(self.classes):
            twice = sorted(c for c, n in Counter(self.classes).items() if n > 1)[:_MOST_TOLD]
            problems.append(
                f"classes: {twice} stand more than once; every class needs its own name"
            )
        problems += self._fusion_problems()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _transform_problems(self) -> list[str]:
        section, resolution = self.transform, self.input.resolution
        problem = (
            self._wavelet_problem(section)
            if section.kind == "wavelet"
            else self._size_problem(section)
        )
        if problem is not None:
            return [problem]
        block = self.bank.block
        if resolution % block:
            fits = max(block, resolution // block * block)
            return [
                f"input.resolution: {resolution} is not divisible by {block}, which the transform "
                f"needs; {fits} is"
            ]
        return []

    @staticmethod
    def _wavelet_problem(section: TransformSection) -> str | None:
        if section.size is not None:
            return (
                f"transform.size: belongs to the kinds {', '.join(SIZES)}; a wavelet has 'wavelet' "
                "and 'levels'"
            )
        if section.wavelet is None or section.levels is None:
            return "transform: kind 'wavelet' needs the keys 'wavelet' and 'levels'"
        if section.wavelet not in wavelet_names():
            return (
                f"transform.wavelet: {section.wavelet!r} is not a discrete orthogonal or "
                f"biorthogonal wavelet of PyWavelets{nearest(section.wavelet, wavelet_names())}"
            )
        return None

    @staticmethod
    def _size_problem(section: TransformSection) -> str | None:
        words, sizes = SIZES[section.kind]
        if section.size is None or section.wavelet is not None or section.levels is not None:
            return f"transform: kind '{section.kind}' needs the key 'size' ({words}) and no other"
        if section.size not in sizes:
            return f"transform.size: {section.size}; kind '{section.kind}' has {words}"
        return None

    def _branch_problems(self) -> list[str]:
        problems: list[str] = []
        seen: set[str] = set()
        for branch in self.branches:
            if len(problems) > _MOST_TOLD:  # the nearest names cost time, a thousand cost minutes
                break
            where = f"branches.{branch.name}"
            if branch.name in seen:
                problems.append(f"{where}: stands twice; every branch needs its own name")
            seen.add(branch.name)
            unknown = [b for b in branch.bands if not self.bank.is_band(b)]
            problems += [
                f"{where}.bands: {band!r} is not a band of {self.bank}"
                f"{nearest(band, self.bank.all_bands())}"
                for band in unknown[:_MOST_TOLD]
            ]
            if len(set(branch.bands)) < len(branch.bands):
                problems.append(f"{where}.bands: a band stands twice in {list(branch.bands)}")
            if not unknown:
                sizes = {b: self.bank.size(b, self.input.resolution) for b in branch.bands}
                if len(set(sizes.values())) > 1:
                    problems.append(f"{where}.bands: sizes differ, {sizes}; a branch has one size")
            problem = network_problem(branch.network)
            if problem is not None:
                problems.append(f"{where}.network: {problem}")
        return problems

    def _fusion_problems(self) -> list[str]:
        problems = []
        prior, weights = self.fusion.prior, self.fusion.weights
        if prior is not None:
            unknown = sorted(set(prior) - set(self.classes))
            problems += [
                f"fusion.prior: {name!r} is not a class{nearest(name, self.classes)}"
                for name in unknown[:_MOST_TOLD]
            ]
            missing = [name for name in self.classes if name not in prior][:_MOST_TOLD]
            if missing:
                problems.append(
                    f"fusion.prior: classes {missing} are missing; it needs a share of each"
                )
        if weights is not None:
            names = {branch.name for branch in self.branches}
            problems += [
                f"fusion.weights: {name!r} is not a branch{nearest(name, sorted(names))}"
                for name in sorted(set(weights) - names)[:_MOST_TOLD]
            ]
            if not any(weights.values()):
                problems.append("fusion.weights: all are 0; at least one must be positive")
        return problems

    # -- identity -----------------------------------------------------------------------------

    def to_document(self) -> dict[str, Any]:
        """Return the plan as plain JSON values, keys equal to their default dropped."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def canonical(self) -> bytes:
        """Return canonical JSON: sorted keys, no spaces, UTF-8 NFC, shortest floats."""
        text = json.dumps(
            self.to_document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return text.encode()

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of `canonical`, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical()).hexdigest()

    # -- geometry -----------------------------------------------------------------------------

    @cached_property
    def bank(self) -> Transform:
        """Return the transform as the bands room knows it."""
        section = self.transform
        if section.kind == "dct":
            return Transform("dct", levels=(section.size or 1).bit_length() - 1)
        if section.kind != "wavelet":
            return Transform(section.kind, levels=0, side=section.size or 0)
        return Transform("wavelet", levels=section.levels or 0, wavelet=section.wavelet or "")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Return the native resolutions a box may have, finest first."""
        return tuple(self.input.resolution >> k for k in range(self.bank.levels + 1))

    def branch(self, name: str) -> Branch:
        """Return a branch by name.

        Raises:
            KeyError: the plan has no such branch.
        """
        for branch in self.branches:
            if branch.name == name:
                return branch
        raise KeyError(name)

    def band_size(self, branch: Branch) -> int:
        """Return the rows (and columns) of the branch's bands."""
        return self.bank.size(branch.bands[0], self.input.resolution)

    def band_channels(self, branch: Branch) -> int:
        """Return the channels of the branch's input, image channels times bands."""
        return self.input.channels * len(branch.bands)

    def required_resolution(self, branch: Branch) -> int:
        """Return the smallest native resolution at which all bands of the branch exist."""
        return self.input.resolution >> min(self.bank.coarsest(band) for band in branch.bands)

    def native_level(self, resolution: int) -> int:
        """Return k for a native resolution ``R / 2^k``.

        Raises:
            ValueError: the plan has no such native resolution.
        """
        return self.resolutions.index(resolution)

    def carried(self, resolution: int) -> tuple[Branch, ...]:
        """Return the branches that a box of this native resolution can train, in plan order."""
        return tuple(b for b in self.branches if self.required_resolution(b) <= resolution)

    def own(self, resolution: int) -> tuple[Branch, ...]:
        """Return what ``--branch auto`` trains: the carried branches of the finest requirement."""
        carried = self.carried(resolution)
        finest = max((self.required_resolution(b) for b in carried), default=0)
        return tuple(b for b in carried if self.required_resolution(b) == finest)

    def layers(self, branch: Branch) -> tuple[networks.Layer, ...]:
        """Return the branch's network as a list of layers.

        Raises:
            ValueError: it is one of the user's own, which has none.
        """
        if branch.own is not None:
            raise ValueError(f"branch {branch.name}: {branch.network} is no list of layers")
        return networks.preset(
            branch.network,
            channels=self.band_channels(branch),
            size=self.band_size(branch),
            classes=len(self.classes),
        )
