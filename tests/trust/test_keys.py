"""Keys are made once, kept from others, and known by a short id."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edge_stl.errors import ResourceError, UsageError
from edge_stl.trust import PrivateKey, load_private_key, load_public_key, make_key


def test_a_key_is_two_files_of_which_one_is_private(tmp_path: Path):
    public = make_key(tmp_path / "cam.key")
    secret = tmp_path / "cam.key"

    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert load_private_key(secret).public == public
    assert load_public_key(tmp_path / "cam.key.pub") == public
    assert public.id == hashlib.sha256(public.raw).hexdigest()[:16]
    assert secret.read_bytes()[40:80] not in (tmp_path / "cam.key.pub").read_bytes()


def test_the_public_file_is_what_the_field_writes(tmp_path: Path):
    make_key(tmp_path / "cam.key")
    key = load_private_key(tmp_path / "cam.key").signer.public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    assert (tmp_path / "cam.key.pub").read_bytes() == pem


@pytest.mark.parametrize("taken", ["cam.key", "cam.key.pub"])
@pytest.mark.parametrize("how", ["file", "link"])
def test_nothing_is_overwritten_and_nothing_half_made(taken: str, how: str, tmp_path: Path):
    there = tmp_path / taken
    there.symlink_to("nowhere") if how == "link" else there.write_text("mine")

    with pytest.raises(UsageError, match=r"is there already, and a .* key is never overwritten"):
        make_key(tmp_path / "cam.key")

    assert list(tmp_path.iterdir()) == [there]
    assert how == "link" or there.read_text() == "mine"


def test_a_folder_that_is_not_there_is_exit_20(tmp_path: Path):
    with pytest.raises(ResourceError, match="a private key cannot be written there"):
        make_key(tmp_path / "no" / "cam.key")


def test_a_failing_disk_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        make_key(tmp_path / "cam.key")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o700 | 0o001])
def test_a_key_that_others_may_touch_is_refused_with_the_command_that_mends_it(
    mode: int, tmp_path: Path
):
    path = tmp_path / "cam.key"
    make_key(path)
    path.chmod(mode)
    with pytest.raises(ResourceError, match=rf"mode {mode:04o}\); .* Run: chmod 600 .*cam.key"):
        load_private_key(path)
    path.chmod(0o400)
    assert load_private_key(path).public


def pem(key: object, *, password: bytes | None = None) -> bytes:
    hide = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hide)  # type: ignore[attr-defined]


OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "holds no private key"),
    "text": (lambda: b"hello", "holds no private key"),
    "cut": (lambda: pem(ed25519.Ed25519PrivateKey.generate())[:-40], "holds no private key"),
    "P-256": (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "expected an Ed25519 key"),
    "locked": (
        lambda: pem(ed25519.Ed25519PrivateKey.generate(), password=b"x"),
        "is protected by a password",
    ),
    "large": (lambda: b"x" * 20_000, "20000 bytes; a key file that .* has at most 16384"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_key_of_ours_is_refused(name: str, tmp_path: Path):
    make, said = OTHERS[name]
    path = tmp_path / "key"
    path.write_bytes(make())
    path.chmod(0o600)
    with pytest.raises(UsageError, match=said) as caught:
        load_private_key(path)
    assert "\n" not in str(caught.value)


def test_links_pipes_and_folders_are_no_key(tmp_path: Path):
    make_key(tmp_path / "cam.key")
    (tmp_path / "link").symlink_to("cam.key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "second").hardlink_to(tmp_path / "cam.key")
    for name, said in {
        "link": "is a link, which is not followed",
        "pipe": "not a regular file",
        ".": "not a regular file",
        "second": "has 2 names",
        "none": "there is no such file",
    }.items():
        with pytest.raises(UsageError, match=said):
            load_private_key(tmp_path / name)


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path):
    make_key(tmp_path / "cam.key")
    with pytest.raises(UsageError, match="is a private key, which stays on its machine"):
        load_public_key(tmp_path / "cam.key")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "-----BEGIN PUBLIC KEY-----\n@@@@\n-----END PUBLIC KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "\udcff",
    ],
)
def test_what_is_no_public_key_is_refused(text: str, tmp_path: Path):
    (tmp_path / "x.pub").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"x\.pub: .*; expected the file KEYFILE\.pub that"):
        load_public_key(tmp_path / "x.pub")


def test_a_key_does_not_print_itself(keys: Callable[[str], PrivateKey]):
    key = keys("cam01")
    raw = key.signer.private_bytes_raw()

    assert raw.hex() not in repr(key)
    assert repr(raw)[2:-1] not in repr(key)
    assert "Ed25519PrivateKey" not in repr(key)


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"keygen needs cryptography and securesystemslib: pip in"):
        make_key(tmp_path / "cam.key")
