"""What the texts must say: links that lead somewhere, every verb, option, key, reason and code."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from device_agent.cotrain._methods import METHODS, settings_class
from edge_stl import errors
from edge_stl.cli import main
from edge_stl.cli._app import app
from edge_stl.images import REASONS
from edge_stl.plan import Plan, networks
from exporter.manifest import Manifest
from exporter.verify import TARGETS


ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "samples" / "README.md",
        ROOT / "edge_stl" / "bands" / "README.md",
    ]
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def read(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / page).read_text()


def section(page: str, title: str) -> str:
    """Return what stands under a heading of a page."""
    return read(page).split(f"\n## {title}\n")[1].split("\n## ")[0]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def verbs() -> list[str]:
    """Return every verb as it is typed, like ``merge`` or ``plan new``."""
    found = [c.name or _callback(c).__name__ for c in app.registered_commands]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        inner = group.typer_instance.registered_commands
        found += [f"{group.name} {c.name or _callback(c).__name__}" for c in inner]
    return found


def _callback(command: Any) -> Any:
    assert command.callback is not None
    return command.callback


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of a model as a dotted path, with its default."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if inner:
            yield from keys(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the checkout, and its anchor a heading of it."""
    for link in _LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_readme_has_every_verb() -> None:
    """Every verb stands in the README's table."""
    table = [line for line in read("README.md").splitlines() if line.startswith("| `")]
    cells = [line.split("|")[1] for line in table]
    missing = [verb for verb in verbs() if not any(f"`{verb}`" in cell for cell in cells)]
    assert not missing


def test_every_option_is_mentioned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every long option of every verb stands somewhere in README or docs."""
    monkeypatch.setenv("COLUMNS", "200")
    text = "\n".join(page.read_text() for page in PAGES)
    unsaid = {"--help", "--quiet", "--out", "--no-fresh"}  # help, and the long names of -q and -o
    for verb in verbs():
        assert main([*verb.split(), "--help"]) == 0
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out))
        missing = [option for option in sorted(options - unsaid) if f"{option}" not in text]
        assert not missing, verb


def test_every_key_of_a_plan_is_documented_with_its_default() -> None:
    """docs/plan.md has a row for every key of the plan, and no row for a key that is not there."""
    table = section("docs/plan.md", "Every key")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]+?) \|", table, re.MULTILINE))
    expected = {
        key: "required"
        if default is PydanticUndefined
        else ("none" if default is None else f"`{json.dumps(default)}`")
        for key, default in keys(Plan)
    }
    assert rows == expected


def test_the_printed_plan_is_what_plan_show_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of docs/plan.md is that of ``plan show`` for the plan made above it."""
    printed = re.findall(
        r"^```text\n(.*?)^```$", section("docs/plan.md", "Make one"), re.MULTILINE | re.DOTALL
    )
    plan = str(tmp_path / "plan.toml")
    new = ["plan", "new", "--classes", "bicycle,car,truck", "--resolution", "64", "-o", plan]
    assert main(new) == 0
    assert main(["plan", "show", plan]) == 0
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed[0].splitlines() == shown[-len(printed[0].splitlines()) :]


def test_every_network_is_documented() -> None:
    """docs/plan.md names every preset."""
    assert all(f"`{name}`" in read("docs/plan.md") for name in networks.preset_names())


def test_the_costs_of_the_networks_are_those_that_are_counted() -> None:
    """The table of docs/plan.md beside `cnn-s`, for three channels and ten classes."""
    page = section("docs/plan.md", "Choose the network")
    names = ("cnn-s", "res-s", "mobile-s")
    for size in (16, 32, 64):
        geometry = {"channels": 3, "size": size}
        layers = [networks.preset(name, classes=10, **geometry) for name in names]
        parameters = " | ".join(f"{networks.parameters(x, **geometry):,}" for x in layers)
        additions = " | ".join(f"{networks.multiply_adds(x, **geometry):,}" for x in layers)
        head = f"| 3 x {size} x {size}, parameters"
        assert f"{head} | {parameters} |\n| multiply-adds | {additions} |\n" in page


def test_every_key_of_a_manifest_is_documented() -> None:
    """docs/branch-file.md names every key of the manifest and of the tables in it."""
    page = read("docs/branch-file.md")
    missing = [key for key, _ in keys(Manifest) if f"`{key.split('.')[-1]}`" not in page]
    assert not missing


def test_every_setting_of_a_method_is_documented_with_its_default() -> None:
    """docs/cotrain.md has a row for every setting of a method; those of PCA are the hook's."""
    text = section("docs/cotrain.md", "Settings of the methods")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]+?) \|", text, re.MULTILINE))
    expected: dict[str, str] = {}
    for method in METHODS:
        kind = settings_class(method)
        if kind is not None and method not in ("compngc", "pca"):
            for field in fields(kind):
                default = "none" if field.default is None else f"`{json.dumps(field.default)}`"
                expected[f"{method}.{field.name}"] = default
    assert rows == expected
    hook = section("docs/pca-hook.md", "Which form")
    assert all(f"`{field.name}`" in hook for field in fields(settings_class("pca")))
    assert settings_class("compngc") is settings_class("ngc")


def test_every_reason_is_documented() -> None:
    """docs/box.md says of every reason why a file is left out."""
    table = section("docs/box.md", "What is left out, and why")
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))
    assert rows == {*REASONS, "too_small", "no_class", "not_yet"}


def test_every_target_is_documented_with_its_limits() -> None:
    """docs/merge.md has opset and IR version of every target of ``check``."""
    rows = re.findall(
        r"^\| `([a-z0-9]+)`[^|]*\| ([0-9]+) \| ([0-9]+) \|", read("docs/merge.md"), re.MULTILINE
    )
    found = {name: (int(opset), int(version)) for name, opset, version in rows}
    assert found == {name: (t.opset, t.ir_version) for name, t in TARGETS.items()}


def test_every_exit_code_is_documented() -> None:
    """The README's table has 0 and the code of every error, and no other."""
    rows = {int(code) for code in re.findall(r"^\| ([0-9]+) \|", read("README.md"), re.MULTILINE)}
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert rows == {0, *(getattr(kind, "exit_code") for kind in kinds)}  # noqa: B009


def test_every_sample_is_listed() -> None:
    """samples/README.md links every sample."""
    page = read("samples/README.md")
    assert all(f"]({path.name})" in page for path in (ROOT / "samples").glob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_path_of_somebodys_machine(page: Path) -> None:
    """No page names an absolute path of the machine it was written on."""
    assert not re.search(r"(?<![\w.~])/(home|root|work|tmp|Users)/", page.read_text())
