"""What is changed is not taken: every bit of an envelope, every block of a file, every swap."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from edge_stl.errors import DataError
from edge_stl.trust import (
    BranchStatement,
    Numbers,
    PrivateKey,
    Trust,
    envelope_path,
    judge,
    read_envelope_beside,
    read_trust,
    sign_branch,
    sign_ensemble,
)
from edge_stl.trust._envelope import seal, unseal
from edge_stl.trust._statement import BRANCH_TYPE, ENSEMBLE_TYPE, MOST_BYTES, to_bytes
from edge_stl.trust._verdict import Artefact


Keys = Callable[[str], PrivateKey]
FILE = b"numbers " * 3000


@pytest.fixture
def trust(desk: Any) -> Trust:
    return read_trust(desk.trust)


@pytest.fixture
def envelope(keys: Keys, tmp_path: Path) -> bytes:
    numbers = Numbers(tmp_path / "n")
    facts = {"plan_digest": "a" * 64, "box": "cam01", "branch": "a1"}
    return sign_branch(keys("cam01"), FILE, numbers=numbers, **facts)[1]


def reasons(data: bytes, sig: bytes | None, trust: Trust, wanted: Artefact = "branch") -> str:
    return "; ".join(judge(data, sig, trust=trust, wanted=wanted).reasons)


def test_a_good_signature_says_who_made_what(trust: Trust, envelope: bytes):
    verdict = judge(FILE, envelope, trust=trust, wanted="branch")

    assert verdict.ok
    assert (str(verdict.owner), verdict.artefact) == ("box cam01", "branch")
    assert isinstance(verdict.statement, BranchStatement)
    assert (verdict.statement.branch, verdict.statement.counter) == ("a1", 1)


def test_no_flipped_bit_of_an_envelope_changes_what_is_accepted(trust: Trust, envelope: bytes):
    """Every single bit; what is accepted all the same says what was signed."""
    signed = unseal(envelope).payload
    said = judge(FILE, envelope, trust=trust).statement
    accepted = 0
    for bit in range(8 * len(envelope)):
        flipped = bytearray(envelope)
        flipped[bit // 8] ^= 1 << (bit % 8)
        verdict = judge(FILE, bytes(flipped), trust=trust, wanted="branch")
        if verdict.ok:
            accepted += 1
            assert unseal(bytes(flipped)).payload == signed
            assert verdict.statement == said
    # the line's end alone: JSON lets a line feed become another space
    assert accepted <= 8
    assert len(envelope) > 450


def test_no_flipped_bit_in_any_block_of_a_file_is_accepted(trust: Trust, envelope: bytes):
    for start in range(0, len(FILE), 4096):
        changed = bytearray(FILE)
        changed[start] ^= 1
        assert "is not the file that was signed" in reasons(bytes(changed), envelope, trust)
    assert "is not the file that was signed" in reasons(FILE[:-1], envelope, trust)
    assert "is not the file that was signed" in reasons(FILE + b"\0", envelope, trust)


@given(data=st.binary(max_size=400))
@settings(deadline=None)
def test_bytes_that_are_no_envelope_are_refused_and_nothing_worse(data: bytes):
    trust = Trust(Path("trust.toml"), {})
    assert "its signature file is damaged" in reasons(FILE, data, trust)


def test_signatures_of_two_files_cannot_be_swapped(keys: Keys, trust: Trust, tmp_path: Path):
    numbers = Numbers(tmp_path / "n")
    facts: dict[str, Any] = {"plan_digest": "a" * 64, "box": "cam01", "numbers": numbers}
    one = sign_branch(keys("cam01"), b"one", branch="a1", **facts)[1]
    two = sign_branch(keys("cam01"), b"two", branch="d1", **facts)[1]

    assert reasons(b"one", one, trust) == reasons(b"two", two, trust) == ""
    assert "is not the file that was signed" in reasons(b"one", two, trust)
    assert "is not the file that was signed" in reasons(b"two", one, trust)


def edited(envelope: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(envelope) | changes).encode()


def test_the_type_is_part_of_what_is_signed(trust: Trust, envelope: bytes):
    for other in (ENSEMBLE_TYPE, "application/json", "", BRANCH_TYPE + " "):
        changed = edited(envelope, payloadType=other)
        assert "its signature is not one of box cam01" in reasons(FILE, changed, trust)
        assert "its signature is not one of box cam01" in reasons(FILE, changed, trust, "ensemble")


def test_a_true_signature_of_another_type_is_refused(keys: Keys, trust: Trust, tmp_path: Path):
    """The key is right and the bytes are signed: as something else."""
    numbers = Numbers(tmp_path / "n")
    ensemble = sign_ensemble(keys("hq"), FILE, plan_digest="a" * 64, numbers=numbers)[1]
    assert reasons(FILE, ensemble, trust, "ensemble") == ""
    assert "is signed as an ensemble; expected a signature of a branch file" in reasons(
        FILE, ensemble, trust
    )
    foreign = seal(b"{}", "application/vnd.in-toto+json", keys("cam01"))
    assert "is signed as 'application/vnd.in-toto+json'" in reasons(FILE, foreign, trust)


def test_a_box_signs_no_ensemble_and_a_desk_no_branch(keys: Keys, trust: Trust, tmp_path: Path):
    numbers = Numbers(tmp_path / "n")
    ensemble = sign_ensemble(keys("cam01"), FILE, plan_digest="a" * 64, numbers=numbers)[1]
    assert "is signed by box cam01; expected the key of a desk" in reasons(
        FILE, ensemble, trust, "ensemble"
    )
    facts = {"plan_digest": "a" * 64, "box": "hq", "branch": "a1"}
    branch = sign_branch(keys("hq"), FILE, numbers=numbers, **facts)[1]
    assert "is signed by desk hq; expected the key of a box" in reasons(FILE, branch, trust)


@pytest.mark.parametrize("count", [0, 2, 65])
def test_an_envelope_has_one_signature(count: int, trust: Trust, envelope: bytes):
    (one,) = json.loads(envelope)["signatures"]
    many = edited(envelope, signatures=[one] * count)
    assert "its signature file is damaged (signatures" in reasons(FILE, many, trust)


def test_a_signature_of_another_key_under_a_known_id_is_refused(
    keys: Keys, trust: Trust, envelope: bytes
):
    sealed = unseal(envelope)
    other = json.loads(seal(sealed.payload, BRANCH_TYPE, keys("stranger")))["signatures"][0]
    forged = edited(envelope, signatures=[other | {"keyid": keys("cam01").public.id}])
    assert "its signature is not one of box cam01" in reasons(FILE, forged, trust)
    assert "is signed with key" in reasons(FILE, edited(envelope, signatures=[other]), trust)


def test_the_payload_is_not_looked_at_before_its_signature(trust: Trust, envelope: bytes):
    liar = base64.b64encode(b'{"box": "cam02"').decode()
    said = reasons(FILE, edited(envelope, payload=liar), trust)
    assert "its signature is not one of box cam01" in said
    assert "no statement" not in said


GOOD = {
    "format": 1, "sha256": "b" * 64, "size": 3, "plan_digest": "a" * 64, "counter": 1,
    "box": "cam01", "branch": "a1",
}  # fmt: skip
STATEMENTS: dict[str, bytes] = {
    "empty": b"",
    "no table": b"[]",
    "two of one key": json.dumps(GOOD)[:-1].encode() + b', "box": "cam02"}',
    "unknown key": json.dumps(GOOD | {"note": 1}).encode(),
    "key missing": json.dumps({k: v for k, v in GOOD.items() if k != "branch"}).encode(),
    "number as text": json.dumps(GOOD | {"counter": "1"}).encode(),
    "number as fraction": json.dumps(GOOD | {"counter": 1.0}).encode(),
    "truth as number": json.dumps(GOOD | {"counter": True}).encode(),
    "NaN": json.dumps(GOOD | {"size": float("nan")}).encode(),
    "counter 0": json.dumps(GOOD | {"counter": 0}).encode(),
    "counter 2**53": json.dumps(GOOD | {"counter": 2**53}).encode(),
    "a thousand digits": json.dumps(GOOD).replace('ter": 1', f'ter": {"9" * 999}').encode(),
    "other format": json.dumps(GOOD | {"format": 2}).encode(),
    "bad digest": json.dumps(GOOD | {"sha256": "B" * 64}).encode(),
    "digest and a line": json.dumps(GOOD | {"sha256": "b" * 64 + "\n"}).encode(),
    "bad box": json.dumps(GOOD | {"box": "../cam01"}).encode(),
    "not UTF-8": json.dumps(GOOD).encode() + b"\xff",
    "BOM": b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
    "deep": b"[" * 2000 + b"]" * 2000,
    "large": json.dumps(GOOD).encode() + b" " * MOST_BYTES,
}  # fmt: skip


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_signed_statement_is_read_strictly(name: str, keys: Keys, trust: Trust):
    sig = seal(STATEMENTS[name], BRANCH_TYPE, keys("cam01"))
    assert "what was signed is no statement of edge-stl (" in reasons(b"abc", sig, trust)
    assert "\n" not in reasons(b"abc", sig, trust)


def test_the_statement_that_the_refused_ones_were_made_from_is_read(keys: Keys, trust: Trust):
    sig = seal(json.dumps(GOOD).encode(), BRANCH_TYPE, keys("cam01"))
    assert reasons(b"abc", sig, trust).startswith("is not the file that was signed (sha256 bbbb")


ENVELOPES: dict[str, Callable[[Any], bytes]] = {
    "two of one key": lambda e: json.dumps(e)[:-1].encode() + b', "payload": ""}',
    "unknown key": lambda e: json.dumps(e | {"x": 1}).encode(),
    "no payload": lambda e: json.dumps({k: v for k, v in e.items() if k != "payload"}).encode(),
    "URL alphabet": lambda e: json.dumps(e | {"payload": "-_-_"}).encode(),
    "spaces": lambda e: json.dumps(e | {"payload": e["payload"] + "\n"}).encode(),
    "stray bits": lambda e: json.dumps(e | {"payload": "YR=="}).encode(),
    "no ASCII": lambda e: json.dumps(e | {"payload": "ä"}).encode(),
    "bad key id": lambda e: json.dumps(
        e | {"signatures": [e["signatures"][0] | {"keyid": "X"}]}
    ).encode(),
    "extra in a signature": lambda e: json.dumps(
        e | {"signatures": [e["signatures"][0] | {"cert": "x"}]}
    ).encode(),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_is_read_strictly(name: str, trust: Trust, envelope: bytes):
    assert "its signature file is damaged (" in reasons(
        FILE, ENVELOPES[name](json.loads(envelope)), trust
    )


def test_an_envelope_of_more_than_64_kib_is_not_read(tmp_path: Path, trust: Trust, envelope: bytes):
    path = tmp_path / "f.onnx"
    envelope_path(path).write_bytes(envelope + b" " * 65_536)
    with pytest.raises(DataError, match=r"f\.onnx\.sig: 66.* bytes; a signature has at most 65536"):
        read_envelope_beside(path)
    assert "at most 65536 are allowed" in reasons(FILE, envelope + b" " * 65_536, trust)


def test_what_is_signed_is_exactly_the_protocols_encoding(keys: Keys, envelope: bytes):
    """DSSE v1: type and payload, each with its length; checked with the bare primitive."""
    document = json.loads(envelope)
    payload = base64.b64decode(document["payload"])
    kind = document["payloadType"].encode()
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    signature = base64.b64decode(document["signatures"][0]["sig"])

    keys("cam01").signer.public_key().verify(signature, message)
    assert payload == to_bytes(BranchStatement.model_validate_json(payload))


def test_the_same_file_gives_the_same_envelope(keys: Keys, tmp_path: Path):
    numbers = Numbers(tmp_path / "n")
    facts: dict[str, Any] = {
        "plan_digest": "a" * 64,
        "box": "b",
        "branch": "a1",
        "numbers": numbers,
    }
    first = sign_branch(keys("cam01"), FILE, **facts)
    assert sign_branch(keys("cam01"), FILE, **facts) == first


def test_no_signature_at_all_is_said_with_what_to_do(trust: Trust):
    assert "is not signed: no file FILE.sig stands beside it" in reasons(FILE, None, trust)
