"""What a signature says of a file: JSON that is closed, small, and read as strictly as it can be.

The bytes that were signed are the bytes that are parsed, and only after the signature held; nothing
is brought into a canonical form, for two programs seldom agree on one.
"""

import hashlib
import json
from collections import Counter as Count
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_stl.plan import NAME_PATTERN, describe


MOST_BYTES = 4096
LARGEST_COUNTER = 2**53 - 1
"""What every JSON parser reads exactly."""

BRANCH_TYPE = "application/vnd.edge-stl.branch.v1+json"
ENSEMBLE_TYPE = "application/vnd.edge-stl.ensemble.v1+json"

Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Counter = Annotated[int, Field(ge=1, le=LARGEST_COUNTER)]
Model = TypeVar("Model", bound=BaseModel)


class Closed(BaseModel):
    """Frozen, strict, without unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Statement(Closed):
    """What is said of any file.

    Attributes:
        format: of the statement.
        sha256: of the file.
        size: of the file, in bytes.
        plan_digest: of the plan it was made under.
        counter: higher than that of every file its signer made of this before.
    """

    format: Literal[1] = 1
    sha256: Digest
    size: Annotated[int, Field(ge=1, le=LARGEST_COUNTER)]
    plan_digest: Digest
    counter: Counter

    def holds_for(self, data: bytes) -> bool:
        """Return whether these are the bytes that were signed."""
        return (self.size, self.sha256) == (len(data), hashlib.sha256(data).hexdigest())


class BranchStatement(Statement):
    """What is said of a branch file: also whose it is."""

    box: Name
    branch: Name


class EnsembleStatement(Statement):
    """What is said of an ensemble."""


TYPES: dict[str, type[BranchStatement] | type[EnsembleStatement]] = {
    BRANCH_TYPE: BranchStatement,
    ENSEMBLE_TYPE: EnsembleStatement,
}
"""What may be signed. A type is part of what is signed, so one cannot pass for another."""


def to_bytes(statement: Statement) -> bytes:
    """Return the statement as it is signed."""
    return json.dumps(statement.model_dump(), separators=(",", ":")).encode()


def parse_strictly(data: bytes, model: type[Model], *, most: int) -> Model:
    """Parse JSON into a closed model; a key that stands twice is refused as well.

    Raises:
        ValueError: it is too large or does not fit, with what is wrong.
    """
    if len(data) > most:
        raise ValueError(f"{len(data)} bytes; at most {most} are allowed")
    try:
        parsed = model.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(describe(error, model)) from None
    # Only now: pydantic bounds the depth, which the parser of the standard library does not.
    json.loads(data, object_pairs_hook=_without_twins)
    return parsed


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = sorted(key for key, times in Count(key for key, _ in pairs).items() if times > 1)
    if twice:
        raise ValueError(f"{', '.join(twice)}: stands twice")
    return dict(pairs)
