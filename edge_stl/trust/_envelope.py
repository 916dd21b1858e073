"""DSSE envelopes (Dead Simple Signing Envelope, protocol v1), made and checked by securesystemslib.

What is signed is ``DSSEv1 <len type> <type> <len payload> <payload>``: type and payload both, each
with its length, so that neither can be taken for a part of the other.
"""

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edge_stl.trust._keys import ID_PATTERN, PrivateKey, PublicKey
from edge_stl.trust._statement import Closed, parse_strictly


if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

MOST_BYTES = 65_536
_KEY_TYPE = "ed25519"  # and the scheme: securesystemslib calls both so


class _Signature(Closed):
    keyid: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    sig: Annotated[str, Field(max_length=88)]  # base64 of 64 bytes


class _Envelope(Closed):
    payload: Annotated[str, Field(max_length=8192)]
    payloadType: Annotated[str, Field(max_length=100)]  # noqa: N815  (the protocol's name)
    signatures: Annotated[tuple[_Signature, ...], Field(min_length=1, max_length=1)]


@dataclass(frozen=True)
class Sealed:
    """An envelope that was read; nothing in it is proved yet.

    Attributes:
        payload: the bytes that were signed.
        payload_type: of what kind they are.
        key_id: whose signature it says it bears; picks the key to check with, and no more.
        signature: 64 bytes.
    """

    payload: bytes
    payload_type: str
    key_id: str
    signature: bytes

    def proved_by(self, key: PublicKey) -> bool:
        """Return whether the holder of this key signed payload and type."""
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import VerificationError
        from securesystemslib.signer import Signature

        signature = Signature(key.id, self.signature.hex())
        envelope = Envelope(self.payload, self.payload_type, {key.id: signature})
        try:
            return set(envelope.verify([_known_as(key)], 1)) == {key.id}
        except VerificationError:
            return False


def seal(payload: bytes, payload_type: str, key: PrivateKey) -> bytes:
    """Return the envelope of a payload as it stands in a file."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

    envelope = Envelope(payload, payload_type, {})
    envelope.sign(CryptoSigner(key.signer, _known_as(key.public)))
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode() + b"\n"


def unseal(data: bytes) -> Sealed:
    """Read an envelope with one signature.

    Raises:
        ValueError: it is none, with what is wrong.
    """
    envelope = parse_strictly(data, _Envelope, most=MOST_BYTES)
    (signature,) = envelope.signatures
    return Sealed(
        payload=_exactly(envelope.payload, "payload"),
        payload_type=envelope.payloadType,
        key_id=signature.keyid,
        signature=_exactly(signature.sig, "signatures.0.sig"),
    )


def _known_as(key: PublicKey) -> "SSlibKey":
    from securesystemslib.signer import SSlibKey

    return SSlibKey(key.id, _KEY_TYPE, _KEY_TYPE, {"public": key.raw.hex()})


def _exactly(text: str, where: str) -> bytes:
    """Decode base64 that has one spelling: no other alphabet, no stray bits at the end."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:  # also what is not ASCII
        raise ValueError(f"{where}: is no base64") from None
    if base64.b64encode(data).decode() != text:
        raise ValueError(f"{where}: is no base64 in its one spelling")
    return data
