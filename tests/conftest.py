"""What several rooms' tests share: fabricated branch files, generated images, JSON schemas."""

import getpass
import hashlib
import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stl.errors import EdgeStlError


SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"


def _numbers(seed: int, shape: tuple[int, ...]) -> Any:
    """Return float32 in [-0.3, 0.3) from PCG64's raw stream, which is the same in every numpy."""
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape, dtype=np.int64))) >> np.uint64(40)
    unit = raw.astype(np.float32) / np.float32(1 << 24)
    return ((unit - np.float32(0.5)) * np.float32(0.6)).reshape(shape)


def fabricated_parameters(plan: Any, branch: str, *, seed: int) -> dict[str, Any]:
    """Return random tensors as a trained branch would have them."""
    from exporter.branch import branch_shapes

    shapes = branch_shapes(plan, branch)
    return {
        name: _numbers(1000 * seed + i, shape) for i, (name, shape) in enumerate(shapes.items())
    }


def fabricated_manifest(
    plan: Any,
    branch: str,
    *,
    box: str = "cam01",
    resolution: int | None = None,
    counts: Sequence[int] | None = None,
    loss: float = 0.5,
    logits: Any = None,
    **changes: Any,
) -> Any:
    """Return a manifest as an agent would write it, without any training."""
    from exporter.manifest import (
        Images,
        Manifest,
        TestVector,
        TrainingRecord,
        Validation,
    )

    classes = len(plan.classes)
    train = tuple(counts or [10] * classes)
    rows = np.zeros((2, classes)) if logits is None else logits
    facts: dict[str, Any] = {
        "format": 1,
        "builder": 1,
        "plan_digest": plan.digest,
        "branch": branch,
        "box": box,
        "network": plan.branch(branch).network,
        "native_resolution": resolution or plan.input.resolution,
        "images": Images(train=train, validation=tuple(min(1, n) for n in train)),
        "validation": Validation(accuracy=0.5, log_loss=loss),
        "temperature": 1.3,
        "training": TrainingRecord(
            epochs=1,
            seed=0,
            batch_size=2,
            learning_rate=0.1,
            weight_decay=0.0,
            label_smoothing=0.0,
            threads=1,
            device="cpu",
        ),
        "versions": {"edge_stl": "0.1"},
        "test_vector": TestVector(
            seed=5, logits=tuple(tuple(float(f"{v:.6g}") for v in row) for row in rows)
        ),
    }
    return Manifest(**(facts | changes))


def fabricated_branch(plan: Any, branch: str, *, seed: int = 0, **facts: Any) -> bytes:
    """Return a branch file with random numbers and a true test vector; no torch, no training."""
    from exporter._session import run
    from exporter.branch import build_branch, export_branch
    from exporter.manifest import vector_input

    parameters = fabricated_parameters(plan, branch, seed=seed)
    spec = plan.branch(branch)
    inputs = vector_input(5, channels=plan.band_channels(spec), size=plan.band_size(spec))
    draft = build_branch(fabricated_manifest(plan, branch, **facts), plan, parameters)
    (logits,) = run(draft, {"bands": inputs})
    return export_branch(
        fabricated_manifest(plan, branch, logits=logits, **facts), plan, parameters
    )


@pytest.fixture(autouse=True, scope="session")
def kept_readers() -> Iterator[None]:
    """Let one process decode for many builds: each takes a fifth of a second to start.

    Only one that runs what it should, under the same limits, without an answer outstanding, and
    of this very process, should a test fork.
    """
    from edge_stl.images import _reader, _reader_process

    kept: dict[Any, Any] = {}
    real = _reader_process.ReaderProcess

    class Kept(real):  # type: ignore[misc, valid-type]
        def __new__(cls, limits: Any, poll: Any) -> Any:  # noqa: ARG004
            return kept.pop(cls.key(limits), None) or super().__new__(cls)

        def __init__(self, limits: Any, poll: Any) -> None:
            if hasattr(self, "own_key"):
                self.poll = poll
                return
            self.own_key = self.key(limits)
            super().__init__(limits, poll)

        @staticmethod
        def key(limits: Any) -> Any:
            return (os.getpid(), limits, _reader_process.CHILD, os.environ.get("PYTHONPATH"))

        def close(self) -> None:
            good = self.unanswered == 0 and self._process.poll() is None
            if good and self.key(self.own_key[1]) == self.own_key and self.own_key not in kept:
                self.poll = lambda: None
                kept[self.own_key] = self
            else:
                super().close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_reader, "ReaderProcess", Kept)
        yield
    for process in kept.values():
        real.close(process)


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """Give back what training switches off for the whole process; Hypothesis needs them."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_flush_denormal"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def parameters_of() -> Callable[..., dict[str, Any]]:
    """As `fabricated_parameters`."""
    return fabricated_parameters


@pytest.fixture(scope="session")
def manifest_for() -> Callable[..., Any]:
    """As `fabricated_manifest`."""
    return fabricated_manifest


@pytest.fixture(scope="session")
def fabricate() -> Callable[..., bytes]:
    """As `fabricated_branch`."""
    return fabricated_branch


@pytest.fixture(scope="session")
def fabricate_fleet() -> Callable[..., list[Path]]:
    """Write one box per native resolution with every branch it carries.

    Box 1 never saw class 1, the last box saw class 0 alone; the others saw every class.
    """

    def fleet(plan: Any, folder: Path, *, loss: float = 0.5, uneven: bool = True) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        classes, files = len(plan.classes), []
        resolutions = [*plan.resolutions, plan.input.resolution]
        for i, resolution in enumerate(resolutions):
            counts = [5 + i + 3 * c for c in range(classes)]
            if uneven and i == 1:
                counts[1] = 0
            if uneven and i == len(resolutions) - 1:
                counts[1:] = [0] * (classes - 1)
            for j, branch in enumerate(plan.carried(resolution)):
                path = folder / f"{branch.name}.box{i}.onnx"
                path.write_bytes(
                    fabricated_branch(
                        plan,
                        branch.name,
                        box=f"box{i}",
                        resolution=resolution,
                        counts=counts,
                        seed=10 * i + j,
                        loss=loss,
                        temperature=1.0 + 0.25 * i,
                    )
                )
                files.append(path)
        return files

    return fleet


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Path]:
    """Write a folder of class folders: class c is a bright bar at its own place, in noise."""

    def write(
        folder: Path,
        classes: Sequence[str],
        *,
        count: int = 20,
        side: int = 16,
        channels: int = 3,
        seed: int = 0,
        names: str = "{:03}.png",
    ) -> Path:
        from PIL import Image

        rng = np.random.default_rng(seed)
        for c, name in enumerate(classes):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (side, side, channels))
                start = c * side // len(classes)
                bar = slice(start, start + max(1, side // len(classes)))
                pixels[bar if i % 2 else slice(None), bar] += 120
                grey = pixels[:, :, 0] if channels == 1 else pixels
                Image.fromarray(grey.astype(np.uint8)).save(folder / name / names.format(i))
        return folder

    return write


@pytest.fixture(scope="session")
def damages() -> dict[str, Callable[[Path], None]]:  # noqa: C901  (one small function per way)
    """Ways in which a file of a work folder can be damaged, by name; each is given its path."""

    def bytes_by(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
        def damage(path: Path) -> None:
            path.write_bytes(change(path.read_bytes()))

        return damage

    def instead(put: Callable[[Path], object]) -> Callable[[Path], None]:
        def damage(path: Path) -> None:
            path.unlink()
            put(path)

        return damage

    def flipped(part: float) -> Callable[[bytes], bytes]:
        def flip(data: bytes) -> bytes:
            if not data:
                return b"\1"
            at = int(part * len(data))
            return data[:at] + bytes([data[at] ^ (1 << int(8 * part))]) + data[at + 1 :]

        return flip

    def over(part: float, fill: bytes) -> Callable[[bytes], bytes]:
        def overwrite(data: bytes) -> bytes:
            at = int(part * len(data))
            block = (fill * 4096)[: min(4096, max(1, len(data) // 3), len(data) - at)]
            return data[:at] + block + data[at + len(block) :]

        return overwrite

    def swapped(path: Path) -> None:
        other = next(p for p in sorted(path.parent.iterdir()) if p.is_file() and p != path)
        mine = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(mine)

    ways: dict[str, Callable[[Path], None]] = {
        "gone": Path.unlink,
        "empty": bytes_by(lambda _: b""),
        "one byte short": bytes_by(lambda data: data[:-1]),
        "one byte more": bytes_by(lambda data: data + b"0"),
        "a line more": bytes_by(lambda data: data + b"\n"),
        "twice": bytes_by(lambda data: 2 * data),
        "reversed": bytes_by(lambda data: data[::-1]),
        "first byte gone": bytes_by(lambda data: data[1:]),
        "text": bytes_by(lambda _: b"hello\n"),
        "not UTF-8": bytes_by(lambda _: b"\xff\xfe\x00\x80" * 20),
        "JSON": bytes_by(lambda _: b"{}"),
        "zeros": bytes_by(lambda data: bytes(len(data))),
        "swapped": swapped,
        "folder": instead(Path.mkdir),
        "pipe": instead(os.mkfifo),
        "dangling link": instead(lambda path: path.symlink_to("nowhere")),
        "link to itself": instead(lambda path: path.symlink_to(path.name)),
        "link out": instead(lambda path: path.symlink_to("/dev/zero")),
    }
    ways |= {f"cut at {n}/9": bytes_by(lambda d, n=n: d[: n * len(d) // 9]) for n in range(1, 9)}
    ways |= {f"flip at {n}/16": bytes_by(flipped(n / 16)) for n in range(16)}
    for part in (0, 0.5, 0.9):
        ways |= {f"{x.hex()} at {part}": bytes_by(over(part, x)) for x in (b"\0", b"\xff")}
    return ways


@pytest.fixture(scope="session")
def assert_schema() -> Callable[[Any, str], None]:
    """Assert that a document holds to ``docs/schemas/<verb>.json``."""

    def check(document: Any, verb: str) -> None:
        schema = json.loads((SCHEMAS / f"{verb}.json").read_text())
        problems = list(schema_problems(document, schema, "$"))
        assert not problems, "; ".join(problems)

    return check


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KNOWN = {
    "$schema", "$id", "title", "description", "type", "required", "properties", "items", "enum",
    "const", "minimum", "maximum", "pattern", "minItems", "anyOf", "additionalProperties",
}  # fmt: skip


def schema_problems(  # noqa: C901, PLR0912  (one line per keyword)
    value: Any, schema: Any, where: str
) -> Iterable[str]:
    """Yield every way in which a value breaks a schema; a keyword not known here is one too."""
    if schema is True:
        return
    yield from (f"{where}: keyword {key} is not checked" for key in sorted({*schema} - _KNOWN))
    if "anyOf" in schema and all(
        list(schema_problems(value, option, where)) for option in schema["anyOf"]
    ):
        yield f"{where}: {value!r} is none of the alternatives"
    names = schema.get("type", [])
    kinds = [names] if isinstance(names, str) else names
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{where}: {value!r} is not of type {kinds}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is not one of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{where}: {value!r} is not {schema['const']!r}"
    if _is(value, "number"):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        if not low <= value <= high:
            yield f"{where}: {value} is not in {low}..{high}"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{where}: {value!r} does not match {schema['pattern']}"
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{where}: {len(value)} items, at least {schema['minItems']} are needed"
        for index, item in enumerate(value):
            yield from schema_problems(item, schema.get("items", True), f"{where}[{index}]")
    if isinstance(value, dict):
        own = schema.get("properties", {})
        yield from (
            f"{where}: {k} is missing" for k in schema.get("required", []) if k not in value
        )
        for key, item in value.items():
            rest = schema.get("additionalProperties", True)
            yield from schema_problems(item, own.get(key, rest), f"{where}.{key}")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


# -- nothing leaves a box that its plan does not allow --------------------------------------------

_LARGEST_BRANCH = 1 << 28  # bytes; a bomb of 4 GiB is no branch file and need not be read
_FILE_NAME = r"(?i)[\w.-]+\.(?:png|jpe?g|webp|bmp|tiff?|gif|csv|toml|u8)\b"


def leaks(data: bytes) -> list[str]:
    """Return what a branch file gives away: paths, file names, host, user, counts under the floor.

    Bytes that are no branch file give nothing: other tests damage files on purpose.
    """
    from exporter import names
    from exporter.manifest import parse_manifest
    from exporter.read import Unusable, metadata, parse_model

    try:
        model = parse_model(data)
        properties = metadata(model)
        manifest, plan = parse_manifest(properties[names.KEY_MANIFEST])
    except (Unusable, KeyError, ValueError, EdgeStlError):
        return []
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # numbers, in which any short word comes up by chance
    text = str(model)  # protobuf's text form: every string in quotes, whatever its field
    places = (Path.home(), Path.cwd(), sys.prefix, tempfile.gettempdir())
    words = {socket.gethostname(), getpass.getuser(), *map(str, places)} - set(plan.classes)
    patterns = [rf"(?<!\w){re.escape(word)}(?!\w)" for word in words if len(word) > 1]
    found = [m.group() for p in [*patterns, _FILE_NAME] for m in re.finditer(p, text)]
    floor, counts = plan.privacy.min_count, manifest.images
    found += [f"a count of {n}" for n in (*counts.train, *counts.validation) if 0 < n < floor]
    accuracy = manifest.validation.accuracy
    if floor and accuracy is not None and round(accuracy, 2) != accuracy:
        found.append(f"an accuracy of {accuracy}")
    return found


@pytest.fixture(scope="session")
def leaks_of() -> Callable[[bytes], list[str]]:
    """As `leaks`."""
    return leaks


@pytest.fixture(scope="session", autouse=True)
def no_branch_file_of_any_test_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Look through every branch file that the tests of this process left."""
    yield
    seen: set[bytes] = set()
    for path in tmp_path_factory.getbasetemp().rglob("*.onnx"):
        if not path.is_file() or path.is_symlink() or path.stat().st_size > _LARGEST_BRANCH:
            continue
        data = path.read_bytes()
        digest = hashlib.sha256(data).digest()
        if digest not in seen:
            seen.add(digest)
            assert not leaks(data), f"{path} gives away {leaks(data)}"
