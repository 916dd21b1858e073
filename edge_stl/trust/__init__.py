"""Who made a file: Ed25519 keys, DSSE envelopes beside files, and whom a desk trusts.

A signature proves that who holds a key made these bytes for this plan, box and branch, and after
which other file of that branch. It proves nothing about what is in them. Formats, and what each
verdict means: ``docs/trust.md``.
"""

from edge_stl.trust._counter import COUNTER_FILE, Numbers
from edge_stl.trust._edit import add_key, revoke_keys
from edge_stl.trust._keys import (
    PrivateKey,
    PublicKey,
    load_private_key,
    load_public_key,
    make_key,
    need_signing,
)
from edge_stl.trust._seen import Seen, read_seen, remember, seen_path
from edge_stl.trust._sign import envelope_path, sign_branch, sign_ensemble
from edge_stl.trust._statement import BranchStatement, EnsembleStatement, Statement
from edge_stl.trust._trust_file import Owner, Trust, read_trust
from edge_stl.trust._verdict import (
    Verdict,
    judge,
    read_envelope_beside,
    trusted_ensemble,
)


__all__ = [
    "COUNTER_FILE",
    "BranchStatement",
    "EnsembleStatement",
    "Numbers",
    "Owner",
    "PrivateKey",
    "PublicKey",
    "Seen",
    "Statement",
    "Trust",
    "Verdict",
    "add_key",
    "envelope_path",
    "judge",
    "load_private_key",
    "load_public_key",
    "make_key",
    "need_signing",
    "read_envelope_beside",
    "read_seen",
    "read_trust",
    "remember",
    "revoke_keys",
    "seen_path",
    "sign_branch",
    "sign_ensemble",
    "trusted_ensemble",
]
