"""The trust file: closed, one owner for a key, and a person's own text stays in it."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stl.errors import UsageError
from edge_stl.trust import PrivateKey, add_key, read_seen, read_trust, revoke_keys, seen_path


Keys = Callable[[str], PrivateKey]


def test_the_first_add_makes_the_file_and_its_record(tmp_path: Path, keys: Keys):
    trust = tmp_path / "trust.toml"
    assert add_key(trust, "box", "cam01", keys("cam01").public)
    assert not add_key(trust, "box", "cam01", keys("cam01").public)

    (owner,) = read_trust(trust).owners.values()
    assert (str(owner), owner.key, owner.revoked) == ("box cam01", keys("cam01").public, False)
    assert not read_seen(trust).marks
    assert read_seen(trust).note is None


def test_a_new_trust_file_keeps_the_numbers_of_a_lost_one(desk: Any, keys: Keys):
    before = seen_path(desk.trust).read_bytes()
    desk.trust.unlink()
    add_key(desk.trust, "box", "cam01", keys("cam01").public)
    assert seen_path(desk.trust).read_bytes() == before


def test_a_box_may_have_several_keys_and_a_key_one_owner(desk: Any, keys: Keys):
    add_key(desk.trust, "box", "cam01", keys("cam01-b").public)
    assert sum(o.id == "cam01" for o in read_trust(desk.trust).owners.values()) == 2
    for kind, name in (("box", "cam02"), ("desk", "cam01"), ("desk", "hq")):
        with pytest.raises(UsageError, match=r"is that of box cam01; expected a key of .*'s own"):
            add_key(desk.trust, kind, name, keys("cam01").public)


def test_a_revoked_key_does_not_come_back(desk: Any, keys: Keys):
    revoke_keys(desk.trust, "cam01", reason="stolen")
    with pytest.raises(UsageError, match=r"was revoked \(stolen\), which is for good"):
        add_key(desk.trust, "box", "cam01", keys("cam01").public)


BY_HAND = """\
# our boxes
format = 1  # do not touch

[[boxes]]   # at the north gate
  id = 'cam01'
  key = "{one}" # from the stick of Tuesday
  revoked = false
  # [[boxes]] that are gone
[[boxes]]
key = '{two}'
id = "cam02"
[[desks]]
id = "hq"
key = "{desk}\""""


@pytest.fixture
def by_hand(tmp_path: Path, keys: Keys) -> Path:
    path = tmp_path / "trust.toml"
    raw = base64.b64encode(keys("cam02").public.raw).decode()
    text = BY_HAND.format(one=keys("cam01").public.text, two=raw, desk=keys("hq").public.text)
    path.write_text(text)
    return path


def test_a_persons_own_text_stays(by_hand: Path, keys: Keys):
    before = by_hand.read_text()
    add_key(by_hand, "box", "cam03", keys("cam03").public)
    added = by_hand.read_text()
    assert added.startswith(before)
    gone = revoke_keys(by_hand, "cam01", reason='lost, "gone" \\ Ä')

    assert [str(o) for o in gone] == ["box cam01"]
    lines = by_hand.read_text().splitlines()
    assert set(added.splitlines()) - set(lines) == {"  revoked = false"}
    assert "# from the stick of Tuesday" in by_hand.read_text()
    owners = read_trust(by_hand).owners
    assert owners[keys("cam01").public.id].reason == 'lost, "gone" \\ Ä'
    assert [o.id for o in owners.values() if o.revoked] == ["cam01"]


@pytest.mark.parametrize("name", ["cam01", "cam02", "hq"])
def test_each_entry_is_revoked_by_name_or_by_key_and_no_other(name: str, by_hand: Path, keys: Keys):
    text = by_hand.read_text()
    for what in (name, keys(name).public.id):
        by_hand.write_text(text)
        revoke_keys(by_hand, what, reason="x")
        assert [o.id for o in read_trust(by_hand).owners.values() if o.revoked] == [name]


def test_a_name_revokes_all_keys_of_a_box_and_an_id_one(desk: Any, keys: Keys):
    add_key(desk.trust, "box", "cam01", keys("cam01-b").public)
    assert len(revoke_keys(desk.trust, keys("cam01-b").public.id, reason="x")) == 1
    assert len(revoke_keys(desk.trust, "cam01", reason="y")) == 1
    with pytest.raises(UsageError, match="'cam01' was revoked before"):
        revoke_keys(desk.trust, "cam01", reason="z")


def test_what_cannot_be_changed_line_by_line_is_left_alone(desk: Any, keys: Keys):
    text = f'format = 1\nboxes = [{{id = "cam01", key = "{keys("cam01").public.text}"}}]\n'
    desk.trust.write_text(text)
    with pytest.raises(UsageError, match="is written in a way that cannot be changed here"):
        revoke_keys(desk.trust, "cam01", reason="x")
    with pytest.raises(UsageError, match="is written in a way that cannot be changed here"):
        add_key(desk.trust, "box", "cam02", keys("cam02").public)
    assert desk.trust.read_text() == text


def test_nobody_of_that_name_is_said_with_who_is_there(desk: Any):
    with pytest.raises(UsageError, match=r"'cam9' is neither .*; it has cam01, cam02, hq\. See"):
        revoke_keys(desk.trust, "cam9", reason="x")


GOOD = 'format = 1\n[[boxes]]\nid = "cam01"\nkey = "{key}"\n'
BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "format: is missing"),
    "no TOML": ("format = ", "not a TOML file of trust"),
    "other format": ("format = 2", "format: 2; input should be 1"),
    "unknown key": (GOOD + "trusted = true", r"boxes\.0\.trusted: unknown key"),
    "misspelt table": (GOOD.replace("boxes", "boxs"), "boxs: unknown key; did you mean 'boxes'"),
    "no key": ('format = 1\n[[boxes]]\nid = "cam01"', r"boxes\.0\.key: is missing"),
    "bad key": ('format = 1\n[[boxes]]\nid = "a"\nkey = "%"', r"boxes\.0\.key: '%' is no base64"),
    "short key": ('format = 1\n[[boxes]]\nid = "a"\nkey = "AAAA"', "is no Ed25519 key"),
    "bad name": (GOOD.replace("cam01", "Cam 01"), r"boxes\.0\.id: 'Cam 01'"),
    "text as truth": (GOOD + 'revoked = "no"', r"boxes\.0\.revoked: 'no'"),
    "a key twice": (GOOD + GOOD.replace("format = 1\n", ""), "stands under box cam01 and under"),
    "two owners": (
        GOOD + GOOD.replace("format = 1\n", "").replace("cam01", "cam02"), "every key once"),
    "a date": (GOOD + "reason = 2026-01-01", "not a TOML file of trust"),
    "a reason of two lines": (GOOD + 'reason = "a\\nb"', r"boxes\.0\.reason"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_trust_file_is_refused(name: str, tmp_path: Path, keys: Keys):
    text, said = BAD[name]
    path = tmp_path / "trust.toml"
    path.write_text(text.replace("{key}", keys("cam01").public.text))
    with pytest.raises(UsageError, match=said) as caught:
        read_trust(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_trust_file_that_anyone_may_write_is_refused(desk: Any):
    desk.trust.chmod(0o666)
    with pytest.raises(UsageError, match=r"anyone may write it \(mode 0666\).* run: chmod o-w"):
        read_trust(desk.trust)


def test_a_trust_file_is_no_link_and_no_bytes(desk: Any, tmp_path: Path):
    (tmp_path / "link.toml").symlink_to(desk.trust)
    with pytest.raises(UsageError, match="is a link, which is not followed"):
        read_trust(tmp_path / "link.toml")
    desk.trust.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no text in UTF-8"):
        read_trust(desk.trust)
