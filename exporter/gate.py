"""The gate of ``merge --trust``: nothing that is not signed by an enrolled key gets through.

A file and its envelope are read once each. The signature is judged on those bytes before they are
parsed, and the same bytes are parsed and merged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from edge_stl.errors import DataError, IntegrityError
from edge_stl.trust import (
    BranchStatement,
    Seen,
    Statement,
    Trust,
    Verdict,
    judge,
    need_signing,
    read_envelope_beside,
    read_seen,
    read_trust,
    remember,
)
from exporter.read import BranchFile, Unusable, branch_from_bytes, read_bytes


class Untrusted(Unusable):
    """A file whose signature does not let it in."""


class Gate:
    """Whom a merge trusts, what it has taken before, and what it lets through.

    Args:
        trust: the trust file that was read.
        seen: the numbers taken so far.
    """

    def __init__(self, trust: Trust, seen: Seen) -> None:
        self._trust = trust
        self._seen = seen
        self._passed: dict[str, tuple[Statement, str]] = {}

    @classmethod
    def open(cls, trust: Path, *, anew: bool = False) -> Self:
        """Read a trust file and the numbers beside it.

        Raises:
            UsageError: the trust file cannot be used, or the extra ``sign`` is missing.
            IntegrityError: the numbers are lost, and ``anew`` is off.
        """
        need_signing("--trust")
        return cls(read_trust(trust), read_seen(trust, anew=anew))

    @property
    def note(self) -> str | None:
        """Return what a person should know of the numbers."""
        return self._seen.note

    def read(self, path: Path, *, accept_graphs: bool = False) -> BranchFile:
        """Read a branch file that an enrolled box signed, and that is not an old one.

        Args:
            path: of the file.
            accept_graphs: as `exporter.read.branch_from_bytes`: after the signature.

        Raises:
            DataError: the file cannot be read.
            Untrusted: its signature does not let it in; with every reason.
            Unusable: it is not a usable branch file; with every reason.
        """
        data = read_bytes(path)
        verdict = self._judge(path, data)
        statement, owner = verdict.statement, verdict.owner
        if not verdict.ok or not isinstance(statement, BranchStatement) or owner is None:
            raise Untrusted(list(verdict.reasons))
        file = branch_from_bytes(data, name=path.name, accept_graphs=accept_graphs)
        said = file.manifest
        pairs = (
            ("plan", statement.plan_digest[:12], said.plan_digest[:12]),
            ("box", statement.box, said.box),
            ("branch", statement.branch, said.branch),
        )
        other = [f"is signed for {w} {a}, and is of {w} {b}" for w, a, b in pairs if a != b]
        if other:
            raise Untrusted(other)
        self._passed[file.sha256] = (statement, owner.id)
        return replace(file, signed=owner.key.id)

    def read_ensemble(self, path: Path) -> bytes:
        """Return the bytes of an ensemble that an enrolled desk signed.

        Raises:
            DataError: the file cannot be read.
            IntegrityError: its signature does not let it in; with every reason.
        """
        data = read_bytes(path)
        verdict = judge(
            data,
            read_envelope_beside(path),
            trust=self._trust,
            seen=self._seen,
            wanted="ensemble",
        )
        if not verdict.ok:
            raise IntegrityError(f"{path.name}: {'; '.join(verdict.reasons)}")
        return data

    def need_members(self, files: Sequence[BranchFile], *, name: str) -> None:
        """Refuse branches of an ensemble whose boxes are not, or no longer, trusted.

        Args:
            files: the branches that stay in it.
            name: of the ensemble, for the message.

        Raises:
            IntegrityError: with every branch and its reason.
        """
        reasons = [f"{f.manifest.id} {why}" for f in files if (why := self._unfit(f))]
        if reasons:
            raise IntegrityError(
                f"{name}: {'; '.join(reasons)}; expected branches of trusted boxes alone. Take "
                "these boxes out with --remove, or merge signed branch files anew"
            )

    def remember(self, files: Iterable[BranchFile]) -> None:
        """Keep the numbers of the files that went into an ensemble, once that is on the disk.

        Raises:
            ResourceError: they cannot be written.
        """
        passed = [self._passed[f.sha256] for f in files if f.sha256 in self._passed]
        remember(self._trust.path, passed)

    def _judge(self, path: Path, data: bytes) -> Verdict:
        try:
            envelope = read_envelope_beside(path)
        except DataError as error:
            raise Untrusted([str(error)]) from None
        return judge(data, envelope, trust=self._trust, seen=self._seen, wanted="branch")

    def _unfit(self, file: BranchFile) -> str | None:
        if file.signed is None:
            return "was merged without its signature being looked at"
        owner = self._trust.owners.get(file.signed)
        if owner is None or (owner.kind, owner.id) != ("box", file.manifest.box):
            return f"was signed with key {file.signed}, which is not one of its box"
        if owner.revoked:
            why = owner.reason or "no reason given"
            return f"was signed with key {file.signed}, which was revoked ({why})"
        return None
