"""Ed25519 keys (RFC 8032), made on the machine that signs, in a file its user alone may read."""

import base64
import hashlib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_stl.durable import read_once, remove, write_new
from edge_stl.errors import ResourceError, UsageError


if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ID_LENGTH = 16
ID_PATTERN = f"[0-9a-f]{{{ID_LENGTH}}}"
_MOST_BYTES = 16_384  # a key file has about a hundred
_RAW_BYTES = 32
# RFC 8410: what stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo.
_PREFIX = bytes.fromhex("302a300506032b6570032100")
_OTHERS = 0o077
_WANTED = "a key file that 'edge-stl keygen' wrote"


@dataclass(frozen=True)
class PublicKey:
    """A public key.

    Attributes:
        raw: its 32 bytes.
    """

    raw: bytes

    @property
    def id(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of its bytes."""
        return hashlib.sha256(self.raw).hexdigest()[:ID_LENGTH]

    @property
    def text(self) -> str:
        """Return what stands in a trust file: the base64 line of the PEM file."""
        return base64.b64encode(_PREFIX + self.raw).decode()

    @property
    def pem(self) -> bytes:
        """Return the key as a PEM file has it (SubjectPublicKeyInfo)."""
        return f"-----BEGIN PUBLIC KEY-----\n{self.text}\n-----END PUBLIC KEY-----\n".encode()


@dataclass(frozen=True)
class PrivateKey:
    """A private key that was loaded.

    Attributes:
        public: the key that others check its signatures with.
    """

    public: PublicKey
    _key: "Ed25519PrivateKey" = field(repr=False)

    @property
    def signer(self) -> "Ed25519PrivateKey":
        """Return the key itself; it is not printed."""
        return self._key


def need_signing(verb: str) -> None:
    """Refuse where the packages that sign and verify are missing.

    Args:
        verb: what is to be done, like ``signing``.

    Raises:
        UsageError: naming the extra.
    """
    wanted = ("cryptography", "securesystemslib")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{verb} needs {' and '.join(missing)}: pip install 'edge-stl[sign]'")


def public_from_text(text: str) -> PublicKey:
    """Return the key of a trust file: base64 of its 32 bytes, or the base64 line of its PEM file.

    Raises:
        ValueError: it is neither.
    """
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        raise ValueError("is no base64; expected the middle line of KEYFILE.pub") from None
    if len(raw) == len(_PREFIX) + _RAW_BYTES and raw.startswith(_PREFIX):
        raw = raw.removeprefix(_PREFIX)
    if len(raw) != _RAW_BYTES:
        raise ValueError("is no Ed25519 key; expected the middle line of KEYFILE.pub")
    return PublicKey(raw)


def make_key(path: Path) -> PublicKey:
    """Make a key: ``path`` (PEM, PKCS #8, mode 0600) and ``path.pub`` (PEM).

    Raises:
        UsageError: one of both is there, or the extra is missing.
        ResourceError: they cannot be written.
    """
    need_signing("keygen")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = _public_of(key)
    beside = public_path(path)
    if beside.exists() or beside.is_symlink():  # before anything is made that would then be half
        raise UsageError(
            f"{beside}: is there already, and a public key is never overwritten; expected a name "
            "that is free. Choose another -o, or move it away"
        )
    write_new(path, secret, mode=0o600, what="a private key")
    try:
        write_new(beside, public.pem, mode=0o644, what="a public key")
    except BaseException:  # a key that nobody can be given the public part of is of no use
        remove(path)
        raise
    return public


def public_path(path: Path) -> Path:
    """Return where the public part of a private key's file stands."""
    return path.with_name(f"{path.name}.pub")


def load_private_key(path: Path) -> PrivateKey:
    """Read a private key.

    Raises:
        ResourceError: others than its user may read the file.
        UsageError: it is missing, a link, no Ed25519 key, or the extra is missing.
    """
    need_signing("signing")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    copied = read_once(path, most=_MOST_BYTES, expected=_WANTED, error=UsageError)
    try:
        key = load_pem_private_key(copied.data, password=None)
    except TypeError:
        raise UsageError(
            f"{path}: is protected by a password; expected {_WANTED}, without one. Make one with "
            "edge-stl keygen"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(
            f"{path}: holds no private key; expected {_WANTED}. Check the path"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"{path}: holds a key of type {type(key).__name__}; expected an Ed25519 key. Make one "
            "with edge-stl keygen"
        )
    if copied.mode & _OTHERS:
        raise ResourceError(
            f"{path}: others may read this private key (mode {copied.mode:04o}); expected mode "
            f"0600. Run: chmod 600 {path}"
        )
    return PrivateKey(_public_of(key), key)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key, ``KEYFILE.pub``.

    Raises:
        UsageError: it is missing, a link, no Ed25519 public key, or a private key.
    """
    wanted = "the file KEYFILE.pub that 'edge-stl keygen' wrote"
    data = read_once(path, most=_MOST_BYTES, expected=wanted, error=UsageError).data
    if b"PRIVATE KEY" in data:
        raise UsageError(
            f"{path}: is a private key, which stays on its machine; expected {wanted}. Take it off "
            "this machine, and name the .pub file"
        )
    lines = data.decode("ascii", "replace").split("\n")
    middle = "".join(line.strip() for line in lines if not line.startswith("-----"))
    try:
        if not any(line.startswith("-----BEGIN PUBLIC KEY-----") for line in lines):
            raise ValueError("holds no public key")  # noqa: TRY301  (one sentence for all)
        return public_from_text(middle)
    except ValueError as error:
        what = str(error).partition(";")[0]
        raise UsageError(f"{path}: {what}; expected {wanted}. Check the path") from None


def _public_of(key: "Ed25519PrivateKey") -> PublicKey:
    return PublicKey(key.public_key().public_bytes_raw())
