"""What an ensemble's record says of the signatures of its branches.

A member whose signature a merge verified has the key ``signed``, the id of the key. Without
``--trust`` no member has it, and the ensemble keeps the bytes it always had: unsigned.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from exporter.read import BranchFile


def signed_entry(file: "BranchFile") -> dict[str, str]:
    """Return what the record says of a branch's signature: nothing where none was verified."""
    return {} if file.signed is None else {"signed": file.signed}


def signed_of(members: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """Return the key id of every member of an ensemble's record.

    Raises:
        ValueError: one is no key id, or some members have one and others none, which no merge does.
    """
    found = [member.get("signed") for member in members]
    wrong = [
        key
        for key in found
        if key is not None and not (isinstance(key, str) and re.fullmatch("[0-9a-f]{16}", key))
    ]
    if wrong or (None in found and any(key is not None for key in found)):
        raise ValueError(f"signed: {found}; expected the id of a key for every branch, or for none")
    return found


def signed_table(files: Sequence["BranchFile"]) -> dict[str, list[str]] | None:
    """Return the keys by box; None for unsigned branches."""
    if not files or any(file.signed is None for file in files):
        return None
    boxes = sorted({file.manifest.box for file in files})
    return {
        box: sorted({f.signed for f in files if f.manifest.box == box and f.signed is not None})
        for box in boxes
    }
