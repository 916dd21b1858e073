"""``group.toml``: what is taken, and what is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from device_agent.cotrain._group import Group, Run, read_group
from device_agent.cotrain._methods import METHODS, settings_class
from device_agent.cotrain._problem import refuse_batch_norm
from edge_stl.cotrain import JwinsSettings, PCASettings
from edge_stl.errors import UsageError
from edge_stl.plan import Plan, new_plan
from exporter.manifest import canonical_json


TEXT = """
format = 1
name = "gate"
branch = "ca1"
boxes = ["cam01", "cam02", "cam03"]
"""


def _plan(network: str = "cnn-s-gn") -> Plan:
    return new_plan(
        name="p",
        classes=("a", "b"),
        resolution=16,
        channels=3,
        transform="haar",
        levels=1,
        branches="single",
        network=network,
    )


def _read(tmp_path: Path, text: str, method: str = "full", **changes: Any) -> Run:
    path = tmp_path / "group.toml"
    path.write_text(text)
    return read_group(path, method, _plan(), changes)


def test_a_group_has_defaults_and_the_command_line_changes_them(tmp_path: Path):
    run = _read(tmp_path, TEXT)

    assert (run.group.rounds, run.group.rate, run.graph_name) == (100, 0.05, "ring")
    assert run.graph.neighbours == ((1, 2), (0, 2), (0, 1))
    changed = _read(tmp_path, TEXT, rounds=7, rate=0.5, graph="full", seed=3)
    assert (changed.local.rounds, changed.local.rate, changed.group.seed) == (7, 0.5, 3)
    assert changed.digest != run.digest


def test_the_table_of_the_method_is_taken(tmp_path: Path):
    run = _read(tmp_path, TEXT + "[jwins]\nshares = [0.5, 1.0]\n", "jwins")

    assert run.settings == JwinsSettings(shares=(0.5, 1.0))
    assert run.digest != _read(tmp_path, TEXT, "jwins").digest


@pytest.mark.parametrize(("table", "start"), [("", 60), ("[pca]\nstart = 5\n", 5)])
def test_pca_begins_with_a_tenth_of_the_run_in_full(tmp_path: Path, table: str, start: int):
    run = _read(tmp_path, "steps = 3\n" + TEXT + table, "pca", rounds=200)

    assert isinstance(run.settings, PCASettings)
    assert run.settings.start == start


def test_whatever_changes_the_numbers_makes_another_run(tmp_path: Path):
    changes = [
        {},
        {"name": "other"},
        {"branch": "cd1"},
        {"boxes": ["cam01", "cam03", "cam02"]},
        {"seed": 1},
        {"rounds": 7},
        {"steps": 2},
        {"batch": 8},
        {"rate": 0.5},
        {"momentum": 0.5},
        {"momentum": 0.5, "nesterov": True},
        {"weight_decay": 0.5},
        {"schedule": "step"},
    ]
    digests = [_read(tmp_path, TEXT, **change).digest for change in changes]
    digests += [_read(tmp_path, TEXT, method).digest for method in METHODS if method != "full"]

    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_settings_by_default(tmp_path: Path, method: str):
    run = _read(tmp_path, TEXT, method)

    assert run.method == method
    assert run.graph_name == ("star" if method in ("pca", "fedavg", "feddip") else "ring")


@pytest.mark.parametrize("method", METHODS)
def test_the_record_has_every_setting_and_a_group_made_of_it_is_the_same(
    tmp_path: Path, method: str
):
    tables = {"jwins": "[jwins]\nshares = [0.5, 1.0]\n", "choco": "[choco]\ngamma = 0.25\n"}
    head = "steps = 3\nmomentum = 0.5\nnesterov = true\nweight_decay = 0.01\nseed = 4\n"
    boxes = 'boxes = ["cam03", "cam01", "cam02"]'
    text = head + TEXT.replace('boxes = ["cam01", "cam02", "cam03"]', boxes)
    run = _read(tmp_path, text + tables.get(method, ""), method, schedule="cosine")

    said = json.loads(canonical_json(run.record.model_dump(mode="json")))

    settings, kind = said["settings"], settings_class(method)
    own = settings.pop("own", None)
    assert (own is None) == (kind is None)
    assert set(own or {}) == set(kind.__dataclass_fields__ if kind else ())
    ranks = dict(zip(settings.pop("ranks"), said["boxes"], strict=True))
    names = tuple(ranks[rank] for rank in range(3))
    shown = run.group.model_dump(include=set(settings) | {"rounds"})
    assert shown == settings | {"rounds": said["rounds"]}
    again = Group.model_validate(
        run.group.model_dump() | settings | {"boxes": names, "rounds": said["rounds"]}
    )
    made = Run(again, method, {k: v for k, v in (own or {}).items() if v is not None})
    assert (again, made.settings, made.record) == (run.group, run.settings, run.record)


def test_the_record_has_the_edges_of_a_file_and_not_its_name(tmp_path: Path):
    for name in ("secret-place.txt", "ring.txt", "full-secret", "torus-secret"):
        edges = tmp_path / name
        edges.write_text("2 1\n0 1\n")
        run = _read(tmp_path, TEXT, graph=str(edges))
        assert (run.record.graph, run.record.settings.edges) == ("file", ((0, 1), (1, 2)))  # type: ignore[union-attr]
        assert name not in run.record.model_dump_json()


def test_the_record_has_the_edges_of_a_drawn_graph(tmp_path: Path):
    text = TEXT.replace('"cam03"', '"cam03", "cam04", "cam05", "cam06"')
    drawn = [_read(tmp_path, text, graph="regular:3", seed=seed).record.settings for seed in (0, 1)]

    assert [len(made.edges or ()) for made in drawn if made] == [9, 9]
    assert drawn[0] != drawn[1]


def test_a_file_of_edges_beside_the_group_may_be_called_like_a_kind_of_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "ring-secret").write_text("0 1\n1 2\n")
    monkeypatch.chdir(tmp_path)

    assert _read(tmp_path, TEXT, graph="ring-secret").graph_name == "file"
    assert _read(tmp_path, TEXT, graph="regular:02").graph_name == "regular:2"


def test_where_the_boxes_meet_and_how_a_file_of_edges_is_called_make_no_other_run(tmp_path: Path):
    edges = tmp_path / "secret-place.txt"
    edges.write_text("0 1\n1 2\n2 0\n")
    run = _read(tmp_path, TEXT)
    ringed = _read(tmp_path, TEXT, graph=str(edges))
    met = _read(tmp_path, TEXT + 'meet = "10.0.0.1:1"\n')

    assert run.digest == met.digest == ringed.digest
    assert ringed.graph_name == "file"


@pytest.mark.parametrize(
    ("text", "method", "said"),
    [
        (TEXT, "jwin", "jwin: not a method; did you mean 'jwins'"),
        (TEXT + "ruonds = 3\n", "full", "ruonds: unknown key; did you mean 'rounds'"),
        (TEXT + "rounds = 0\n", "full", "rounds: 0; input should be greater than"),
        (TEXT + 'rounds = "3"\n', "full", "rounds: '3'; input should be a valid integer"),
        (TEXT + "rate = inf\n", "full", "holds a value that no group has"),
        (TEXT + 'graph = "star"\n', "full", "neither a kind of graph"),
        (TEXT + 'meet = "10.0.0.1"\n', "full", "meet: '10.0.0.1'; string should match"),
        (TEXT.replace("cam03", "cam01"), "full", "'cam01' stands there twice"),
        (TEXT.replace("cam03", "gate"), "full", "'gate' is one of its boxes"),
        (TEXT.replace('["cam01", "cam02", "cam03"]', '["cam01"]'), "full", "boxes: "),
        (
            TEXT.replace("ca1", "cb1"),
            "full",
            "branch: 'cb1' is not in the plan; did you mean",
        ),
        (TEXT.replace("format = 1", "format = 2"), "full", "format: 2"),
        (TEXT + "[full]\nx = 1\n", "full", r"\[full\] x: this method has no settings"),
        (TEXT + "[jwins]\nshare = 1\n", "full", r"\[jwins\] share: unknown key; did you mean 's"),
        (TEXT + "[jwins]\nshares = [2.0]\n", "jwins", r"shares = \(2\.0,\): out of range"),
        (TEXT + '[jwins]\nlevel = "x"\n', "jwins", r"\[jwins\] level = 'x'; input should be"),
        (
            TEXT + f"[jwins]\nshares = {[0.5] * 257}\n",
            "jwins",
            r"a branch file cannot say what it has: settings\.own\.shares: .* up to 256 numbers",
        ),
        ("jwins = 1\n" + TEXT, "jwins", r"jwins: expected a table \[jwins\]"),
        ("x = [", "full", "not a TOML file"),
        ("x" * 1_000_001, "full", "larger than 1000000 bytes"),
    ],
)
def test_a_wrong_group_is_refused_in_one_line(tmp_path: Path, text: str, method: str, said: str):
    with pytest.raises(UsageError, match=said) as refused:
        _read(tmp_path, text, method)
    assert "\n" not in str(refused.value)


def test_a_group_file_that_is_not_there_says_what_to_do(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot be read .*Write one"):
        read_group(tmp_path / "none.toml", "full", _plan(), {})


def test_a_network_with_batch_norm_is_refused_before_any_image():
    plan = _plan("cnn-s")

    with pytest.raises(UsageError, match=r"cnn-s has batch norm.*--network cnn-s-gn"):
        refuse_batch_norm(plan, plan.branches[0])
    good = _plan()
    refuse_batch_norm(good, good.branches[0])
