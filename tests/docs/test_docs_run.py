"""The commands and programs in README and docs are executed as they stand.

The how-to pages tell one story: each goes on in the folder where the one before it stopped.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
STORY = (
    "docs/plan.md",
    "docs/box.md",
    "docs/service.md",
    "docs/merge.md",
    "docs/deploy.md",
    "docs/branch-file.md",
    "docs/trust.md",
    "docs/simulate.md",
    "docs/compare.md",
    "docs/jobs.md",
)
ALONE = (
    "README.md",
    "edge_stl/bands/README.md",
    "docs/layers.md",
    "docs/jetson-and-pi.md",
    "docs/own-networks.md",
    "docs/pca-hook.md",
    "docs/cotrain.md",
)
CLASSES = ("bicycle", "car", "truck")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Return every fenced block of a page as (page:line, language, text)."""
    text = (ROOT / page).read_text()
    return [
        (f"{page}:{text.count(chr(10), 0, match.start()) + 1}", match[1], match[2])
        for match in _FENCE.finditer(text)
    ]


def run_page(page: str, folder: Path, environment: dict[str, str]) -> int:
    """Run the bash and python blocks of a page in a folder; return how many there were."""
    count = 0
    # A python block goes on where the last one of the page stopped.
    names: dict[str, object] = {"__name__": "__main__"}
    for where, language, text in blocks(page):
        if language == "bash":
            script = f"set -euo pipefail\n{text}"
            ran = subprocess.run(
                ["bash", "-c", script],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert ran.returncode == 0, f"{where}: exit code {ran.returncode}\n{ran.stderr}"
            assert "Traceback" not in ran.stderr, where
            count += 1
        elif language == "python":
            exec(compile(text, where, "exec"), names)  # noqa: S102
            count += 1
    return count


@pytest.fixture
def workplace(
    monkeypatch: pytest.MonkeyPatch, pictures: Callable[..., Path]
) -> Callable[[Path], dict[str, str]]:
    """Make a folder as a user has it: `photos`, and `edge-stl` on the path."""

    def make(folder: Path) -> dict[str, str]:
        pictures(folder / "photos" / "train", CLASSES, count=10, side=64)
        pictures(folder / "photos" / "test", CLASSES, count=2, side=64, seed=1)
        pictures(folder / "photos" / "holdout", CLASSES, count=10, side=64, seed=2)
        shims = folder / ".bin"
        shims.mkdir()
        for name, module in (("edge-stl", "edge_stl"), ("torchrun", "torch.distributed.run")):
            shim = shims / name
            shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
            shim.chmod(0o755)
        python = shims / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        monkeypatch.chdir(folder)
        return os.environ | {
            "PATH": f"{shims}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(folder / ".state"),
            "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads of a dozen processes starve a runner
            "LC_ALL": "C.UTF-8",
        }

    return make


@pytest.mark.slow
def test_the_how_to_pages_run_one_after_the_other(
    tmp_path: Path, workplace: Callable[[Path], dict[str, str]]
) -> None:
    """Every bash and python block of the how-to pages works, in the order of the story."""
    environment = workplace(tmp_path)
    for page in STORY:
        assert run_page(page, tmp_path, environment) > 0, f"{page}: no block was executed"
    assert (tmp_path / "bands.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("page", ALONE)
def test_a_page_that_stands_alone_runs(
    page: str, tmp_path: Path, workplace: Callable[[Path], dict[str, str]]
) -> None:
    """The README's way from plan to prediction works as printed, and so does the bands' page."""
    if page == "docs/own-networks.md":
        pytest.importorskip("onnxscript", reason="needs the extra own")
    assert run_page(page, tmp_path, workplace(tmp_path)) > 0


def test_the_readme_has_the_prediction_that_needs_none_of_our_code() -> None:
    """One python block of the README imports onnxruntime and nothing of this project."""
    programs = [text for _, language, text in blocks("README.md") if language == "python"]
    assert any("onnxruntime" in text for text in programs)
    for text in programs:
        assert not re.search(
            r"^\s*(import|from) (edge_stl|exporter|device_agent)", text, re.MULTILINE
        )


@pytest.mark.parametrize("page", [*STORY, *ALONE])
def test_every_fence_says_what_it_is(page: str) -> None:
    """A block without a language, or with an unknown one, would silently not be run."""
    languages = {language for _, language, _ in blocks(page)}
    assert languages <= {"bash", "python", "text"}, page


def test_a_block_that_fails_fails_the_test(tmp_path: Path) -> None:
    """The runner notices a wrong command in the middle of a block and a wrong assertion."""
    page = tmp_path / "page.md"
    page.write_text("```bash\nfalse\ntrue\n```\n")
    with pytest.raises(AssertionError, match="exit code 1"):
        run_page(str(page), tmp_path, dict(os.environ))
    page.write_text("```python\nassert 1 == 2\n```\n")
    with pytest.raises(AssertionError, match=r"^$|1 == 2"):
        run_page(str(page), tmp_path, dict(os.environ))
