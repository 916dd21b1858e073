"""May this file be used: signed, by whom, for what, and is it the newest. Every reason at once.

Each step uses only what the steps before it proved: the envelope's size, its form, its key, its
signature; then the statement in it, of which not a byte is parsed before.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_stl.durable import read_once
from edge_stl.errors import IntegrityError
from edge_stl.gate import MAX_FILE_BYTES
from edge_stl.trust._envelope import MOST_BYTES as MOST_ENVELOPE_BYTES, Sealed, unseal
from edge_stl.trust._keys import need_signing
from edge_stl.trust._seen import Seen, read_seen
from edge_stl.trust._sign import envelope_path
from edge_stl.trust._statement import (
    BRANCH_TYPE,
    ENSEMBLE_TYPE,
    MOST_BYTES,
    TYPES,
    BranchStatement,
    Statement,
    parse_strictly,
)
from edge_stl.trust._trust_file import Owner, Trust, read_trust


Artefact = Literal["branch", "ensemble"]
_OF_TYPE: dict[str, Artefact] = {BRANCH_TYPE: "branch", ENSEMBLE_TYPE: "ensemble"}
_SIGNER = {"branch": "box", "ensemble": "desk"}
_SHOWN = {"branch": "a branch file", "ensemble": "an ensemble"}


@dataclass(frozen=True)
class Verdict:
    """What a signature is worth.

    Attributes:
        reasons: why the file may not be used; none if it may.
        statement: what was signed, where the signature holds.
        owner: whose key it is, where the trust file knows it.
    """

    reasons: tuple[str, ...]
    statement: Statement | None = None
    owner: Owner | None = None

    @property
    def ok(self) -> bool:
        """Return whether the file may be used."""
        return not self.reasons

    @property
    def artefact(self) -> Artefact | None:
        """Return what the statement is about."""
        if self.statement is None:
            return None
        return "branch" if isinstance(self.statement, BranchStatement) else "ensemble"


def read_envelope_beside(path: Path) -> bytes | None:
    """Return the bytes of a file's envelope; none where there is none.

    Raises:
        DataError: it is too large, a link, no regular file, or cannot be read.
    """
    beside = envelope_path(path)
    if not beside.exists() and not beside.is_symlink():
        return None
    return read_once(beside, most=MOST_ENVELOPE_BYTES, expected="a signature").data


def judge(
    data: bytes,
    envelope: bytes | None,
    *,
    trust: Trust,
    seen: Seen | None = None,
    wanted: Artefact | None = None,
) -> Verdict:
    """Decide on the bytes of a file and of its envelope; both are used as they are given.

    Args:
        data: the file.
        envelope: its envelope, if it has one.
        trust: whom the desk trusts.
        seen: the numbers taken so far; without them an old file passes.
        wanted: what the file must be signed as; anything where None.

    Raises:
        UsageError: the extra ``sign`` is missing.
    """
    need_signing("verifying")
    if envelope is None:
        return Verdict(
            (
                "is not signed: no file FILE.sig stands beside it. Copy it too, or sign the file "
                "where it was made: edge-stl sign FILE --key KEYFILE",
            )
        )
    try:
        sealed = unseal(envelope)
    except ValueError as error:
        return Verdict((f"its signature file is damaged ({error}). Copy it again",))
    owner = trust.owners.get(sealed.key_id)
    if owner is None:
        return Verdict(
            (
                f"is signed with key {sealed.key_id}, which {trust.path.name} does not have. If it "
                "is one of yours: edge-stl trust add BOX KEYFILE.pub",
            )
        )
    revoked = _revoked(owner)
    if not sealed.proved_by(owner.key):
        said = f"its signature is not one of {owner} (key {sealed.key_id}): it was changed"
        return Verdict((f"{said}. Copy it again from where it was made", *revoked), owner=owner)
    try:
        statement = _stated(sealed, wanted)
    except ValueError as error:
        return Verdict((str(error), *revoked), owner=owner)
    reasons = [*revoked, *_unfit(statement, owner, data)]
    old = seen.problem(statement, owner.id) if seen else None
    return Verdict((*reasons, *([old] if old else ())), statement, owner)


def _stated(sealed: Sealed, wanted: Artefact | None) -> Statement:
    """Return the statement that was signed.

    Raises:
        ValueError: it is of another type, or none; with a sentence.
    """
    artefact = _OF_TYPE.get(sealed.payload_type)
    if artefact is None or wanted not in (None, artefact):
        expected = _SHOWN[wanted] if wanted else "a file of edge-stl"
        shown = _SHOWN[artefact] if artefact else repr(sealed.payload_type)
        raise ValueError(f"is signed as {shown}; expected a signature of {expected}")
    try:
        return parse_strictly(sealed.payload, TYPES[sealed.payload_type], most=MOST_BYTES)
    except ValueError as error:
        raise ValueError(f"what was signed is no statement of edge-stl ({error})") from None


def _revoked(owner: Owner) -> list[str]:
    if not owner.revoked:
        return []
    why = owner.reason or "no reason given"
    return [f"is signed with key {owner.key.id} of {owner}, which was revoked ({why})"]


def _unfit(statement: Statement, owner: Owner, data: bytes) -> list[str]:
    reasons = []
    artefact: Artefact = "branch" if isinstance(statement, BranchStatement) else "ensemble"
    if owner.kind != _SIGNER[artefact]:
        reasons.append(
            f"is signed by {owner}; expected the key of a {_SIGNER[artefact]}, which alone may "
            f"sign {_SHOWN[artefact]}"
        )
    if isinstance(statement, BranchStatement) and statement.box != owner.id:
        reasons.append(
            f"is signed for box {statement.box} with key {owner.key.id} of {owner}; expected that "
            "box's own key"
        )
    if not statement.holds_for(data):
        reasons.append(
            f"is not the file that was signed (sha256 {statement.sha256[:12]}, {statement.size} "
            "bytes). Copy the file and its .sig again from where they were made"
        )
    return reasons


def trusted_ensemble(path: Path, trust: Path) -> bytes:
    """Return the bytes of an ensemble that a trusted desk signed: those that were verified.

    Where the trust file has its numbers beside it, an older ensemble than one that was taken is
    refused too; nothing is written.

    Raises:
        UsageError: the trust file cannot be used, or the extra ``sign`` is missing.
        DataError: the ensemble or its envelope cannot be read.
        IntegrityError: no trusted desk signed it; with every reason.
    """
    known = read_trust(trust)
    data = read_once(path, most=MAX_FILE_BYTES, expected="an ensemble").data
    seen = read_seen(trust, anew=True)
    verdict = judge(data, read_envelope_beside(path), trust=known, seen=seen, wanted="ensemble")
    if not verdict.ok:
        raise IntegrityError(f"{path}: {'; '.join(verdict.reasons)}")
    return data
