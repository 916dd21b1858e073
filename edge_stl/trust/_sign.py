"""Signing a file: its statement, its number, its envelope."""

import hashlib
from pathlib import Path

from edge_stl.trust._counter import Numbers
from edge_stl.trust._envelope import seal
from edge_stl.trust._keys import PrivateKey
from edge_stl.trust._statement import (
    BRANCH_TYPE,
    ENSEMBLE_TYPE,
    BranchStatement,
    EnsembleStatement,
    to_bytes,
)


def envelope_path(path: Path) -> Path:
    """Return where the signature of a file stands: ``<file>.sig``, beside it."""
    return path.with_name(f"{path.name}.sig")


def sign_branch(
    key: PrivateKey,
    data: bytes,
    *,
    plan_digest: str,
    box: str,
    branch: str,
    numbers: Numbers,
    above: int = 0,
) -> tuple[BranchStatement, bytes]:
    """Sign a branch file.

    Args:
        key: of the box.
        data: the file.
        plan_digest: of its plan.
        box: whose it is.
        branch: which it is.
        numbers: where its number comes from; the same bytes again get the same.
        above: its number will be higher than this.

    Returns:
        what is said of it, and the envelope, to be written after the file.

    Raises:
        IntegrityError: as `Numbers.take`.
        ResourceError: as `Numbers.take`.
    """
    digest = hashlib.sha256(data).hexdigest()
    statement = BranchStatement(
        sha256=digest,
        size=len(data),
        plan_digest=plan_digest,
        counter=numbers.take(f"{plan_digest}/{branch}.{box}", digest, above=above),
        box=box,
        branch=branch,
    )
    return statement, seal(to_bytes(statement), BRANCH_TYPE, key)


def sign_ensemble(
    key: PrivateKey, data: bytes, *, plan_digest: str, numbers: Numbers, above: int = 0
) -> tuple[EnsembleStatement, bytes]:
    """Sign an ensemble; as `sign_branch`."""
    digest = hashlib.sha256(data).hexdigest()
    statement = EnsembleStatement(
        sha256=digest,
        size=len(data),
        plan_digest=plan_digest,
        counter=numbers.take(f"{plan_digest}/ensemble", digest, above=above),
    )
    return statement, seal(to_bytes(statement), ENSEMBLE_TYPE, key)
