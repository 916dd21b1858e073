"""Signing files that are there already: what they are is found out from their own bytes."""

from dataclasses import dataclass
from pathlib import Path

from edge_stl.errors import DataError
from edge_stl.trust import Numbers, PrivateKey, Statement, sign_branch, sign_ensemble
from exporter import names
from exporter.read import Unusable, kind_of, look_at_branch, parse_model, read_bytes
from exporter.split import members_of


@dataclass(frozen=True)
class Subject:
    """What is to be signed.

    Attributes:
        data: bytes of the file.
        plan_digest: of the plan it was made under.
        box: of a branch file; none for an ensemble.
        branch: likewise.
    """

    data: bytes
    plan_digest: str
    box: str | None = None
    branch: str | None = None

    def sign(self, key: PrivateKey, numbers: Numbers, *, above: int = 0) -> tuple[Statement, bytes]:
        """Return what is said of it, and the envelope; errors as `edge_stl.trust.sign_branch`."""
        if self.box is None or self.branch is None:
            return sign_ensemble(
                key, self.data, plan_digest=self.plan_digest, numbers=numbers, above=above
            )
        return sign_branch(
            key,
            self.data,
            plan_digest=self.plan_digest,
            box=self.box,
            branch=self.branch,
            numbers=numbers,
            above=above,
        )


def read_subject(path: Path) -> Subject:
    """Read a branch file or an ensemble that is to be signed; a damaged one never is.

    Raises:
        DataError: it cannot be read, is neither, or is damaged.
        IntegrityError: an ensemble does not give back what was merged into it.
    """
    data = read_bytes(path)
    try:
        if kind_of(parse_model(data)) == names.ENSEMBLE:
            return Subject(data, members_of(data, name=path.name).plan.digest)
        file = look_at_branch(data, name=path.name)
    except Unusable as verdict:
        raise DataError(f"{path}: {verdict}. Sign what edge-stl wrote") from None
    manifest = file.manifest
    return Subject(data, manifest.plan_digest, manifest.box, manifest.branch)
