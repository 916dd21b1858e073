"""Damaged and forged files for every reader, and what a reader may do with them.

``python -m tests.fuzz.cases --minutes 10`` (``make fuzz MINUTES=10``) goes on until the time is
over and prints seed, cases and outcomes; the tests of this folder take a fixed number of cases.
"""

import argparse
import copy
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import onnx

from edge_stl.errors import EdgeStlError
from edge_stl.gate import Refused, scan_model
from exporter import names
from exporter.manifest import canonical_json
from exporter.read import Unusable, look_at_branch
from exporter.split import branch_bytes, members_of


Rng = np.random.Generator

STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**19, 0.0, -0.0, 1e-300, 1e300, 0.5, "", "a", "cA1",
    "../x", "\x00", "é", "𝄞", "1", [], [0], [[]], {}, {"a": 1}, [None] * 20, "x" * 300,
)  # fmt: skip

WORDS = (
    b"\x00", b"\xff" * 8, b"\x0a", b"\x3a\x00", b"\x7a\x00", b"\xa2\x01\x00", b"\xca\x01\x00",
    b"NaN", b"1e999", b"{}", b"[[[[", b'"box"', b"\x72\x04\x0a\x00\x12\x00", b"\x00\x00\xc0\x7f",
)  # fmt: skip


@dataclass
class Outcomes:
    """What happened, by kind; anything but these kinds is an error that comes through."""

    counts: Counter[str] = field(default_factory=Counter)

    @property
    def cases(self) -> int:
        """Return how many there were."""
        return self.counts.total()


@dataclass(frozen=True)
class Seeds:
    """The honest files that everything is made of."""

    branches: tuple[bytes, ...]
    ensembles: tuple[bytes, ...]


def byte_mutation(data: bytes, rng: Rng) -> bytes:
    """Return the bytes with one to four places changed."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(out) + 1))
        match rng.integers(0, 7):
            case 0 if at < len(out):
                out[at] ^= 1 << int(rng.integers(0, 8))
            case 1 if at < len(out):
                out[at] = int(rng.integers(0, 256))
            case 2:
                out[at:at] = WORDS[rng.integers(0, len(WORDS))]
            case 3:
                del out[at : at + int(rng.integers(1, 9))]
            case 4:
                del out[at:]
            case 5:
                length = int(rng.integers(1, 200))
                to = int(rng.integers(0, len(out) + 1))
                out[to:to] = out[at : at + length]
            case _:
                word = WORDS[rng.integers(0, len(WORDS))]
                out[at : at + len(word)] = word
    return bytes(out)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container with each of its keys or indices."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _document_mutation(document: Any, rng: Rng) -> None:
    for _ in range(rng.integers(1, 3)):
        places = list(_places(document))
        if not places:
            return
        holder, key = places[rng.integers(0, len(places))]
        # a copy: a second change may go into it, and what one case does is no other's business
        strange = copy.deepcopy(STRANGE[rng.integers(0, len(STRANGE))])
        match rng.integers(0, 5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}x"] = strange
            case 2 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = holder[key] * [2, -1, 0.5, 10**6][rng.integers(0, 4)]
            case _:
                holder[key] = strange


def forged(data: bytes, rng: Rng) -> bytes:
    """Return a file whose metadata or tensors were changed with protobuf's own means."""
    model = onnx.load_from_string(data)
    if rng.integers(0, 3):
        prop = next(
            p for p in model.metadata_props if p.key in {names.KEY_MANIFEST, names.KEY_ENSEMBLE}
        )
        document = json.loads(prop.value)
        _document_mutation(document, rng)
        prop.value = canonical_json(document).encode(errors="replace").decode()
    else:
        tensor = model.graph.initializer[rng.integers(0, len(model.graph.initializer))]
        _tensor_mutation(tensor, rng)
    return model.SerializeToString(deterministic=True)


def _tensor_mutation(tensor: onnx.TensorProto, rng: Rng) -> None:
    match rng.integers(0, 6):
        case 0:
            tensor.dims.append(int([0, 1, -1, 2**40, 2**62][rng.integers(0, 5)]))
        case 1:
            tensor.data_type = int(rng.integers(0, 24))
        case 2:
            size = len(tensor.raw_data) // 4
            numbers = np.frombuffer(tensor.raw_data[: 4 * size], "<f4").copy()
            if size:
                strange = [np.nan, np.inf, -np.inf, 1e38, 1e-40, 0, 1, -1e6]
                numbers[rng.integers(0, size)] = strange[rng.integers(0, len(strange))]
            tensor.raw_data = numbers.tobytes()
        case 3:
            tensor.raw_data = tensor.raw_data[: int(rng.integers(0, len(tensor.raw_data) + 1))]
        case 4:
            tensor.name = str(STRANGE[rng.integers(0, len(STRANGE))]).replace("\x00", "")
        case _:
            tensor.external_data.add(key="location", value="../../etc/hostname")
            tensor.data_location = int(rng.integers(0, 2))


def read_branch(data: bytes, original: bytes, outcomes: Outcomes) -> None:
    """Read a branch file: it is refused, or it is what its numbers rebuild to."""
    try:
        file = look_at_branch(data, name="f")
    except Unusable as verdict:
        assert verdict.reasons
        assert all(reason.strip() and "\n" not in reason for reason in verdict.reasons)
        outcomes.counts["branch: refused"] += 1
        return
    assert branch_bytes(file) == data
    assert all(np.isfinite(array).all() for array in file.parameters.values())
    outcomes.counts["branch: the same" if data == original else "branch: another, and whole"] += 1


def read_ensemble(data: bytes, original: bytes, outcomes: Outcomes) -> None:
    """Take an ensemble apart: refused, or every file in it is one that can be merged."""
    try:
        content = members_of(data, name="e")
    except EdgeStlError as verdict:
        assert verdict.exit_code in {10, 60}, verdict
        assert "\n" not in str(verdict)
        outcomes.counts[f"ensemble: refused with {verdict.exit_code}"] += 1
        return
    for file in content.files:
        assert look_at_branch(branch_bytes(file), name="f").sha256 == file.sha256
    outcomes.counts["ensemble: the same" if data == original else "ensemble: whole files"] += 1


def read_gate(data: bytes, outcomes: Outcomes) -> None:
    """Look through bytes as prediction does before onnxruntime sees them."""
    try:
        outline = scan_model(data)
    except Refused as verdict:
        assert "\n" not in str(verdict)
        outcomes.counts["gate: refused"] += 1
        return
    if outline.foreign:
        outcomes.counts["gate: foreign"] += 1
        return
    # what the scan lets through, protobuf reads as the same: there is no second meaning
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # noqa: BLE001  (text that is no UTF-8 in names, which onnxruntime refuses)
        outcomes.counts["gate: let through, no protobuf"] += 1
        return
    assert not model.functions
    assert not model.training_info
    assert not model.graph.sparse_initializer
    assert all(not t.external_data for t in model.graph.initializer)
    assert {p.key: p.value for p in model.metadata_props} == outline.metadata
    outcomes.counts["gate: let through"] += 1


def one_case(seeds: Seeds, rng: Rng, outcomes: Outcomes) -> None:
    """Make one file and give it to the reader it is for."""
    make: Callable[[bytes, Rng], bytes] = byte_mutation if rng.integers(0, 2) else forged
    which = rng.integers(0, 4)
    group = seeds.branches if which < 2 else seeds.ensembles
    original = group[rng.integers(0, len(group))]
    data = make(original, rng)
    if which < 2:
        read_branch(data, original, outcomes)
    elif which == 2:
        read_ensemble(data, original, outcomes)
    else:
        read_gate(data, outcomes)


FORBIDDEN = (
    "open", "socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
    "os.system", "os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink", "shutil.",
    "ctypes.dlopen", "pickle.", "compile", "exec", "import",
)  # fmt: skip


class Watch:
    """Notes every file, process and socket that Python opens while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {str(arguments)[:200]}")

    def __enter__(self) -> Self:
        self.on, self.seen = True, []
        return self

    def __exit__(self, *_: object) -> None:
        self.on = False


def honest_seeds() -> Seeds:
    """Return small files of several kinds: wavelet, block DCT, cascade, median, own graphs."""
    from edge_stl.plan import new_plan
    from exporter.merge import merge_files
    from exporter.options import Options
    from tests.conftest import fabricated_branch
    from tests.exporter.own_files import own_branch

    # graphs of their own are looked at, and never run: a process would be started for that
    branches = [own_branch(box=f"box{i}", seed=i) for i in range(2)]
    ensembles = [
        merge_files([look_at_branch(data, name="f") for data in branches], options=Options()).model
    ]
    for transform, network, channels in (("haar", "mlp-s", 1), ("dct:2", "cnn-xs", 3)):
        plan = new_plan(
            classes=["bus", "car", "van"],
            resolution=4,
            levels=1 if transform == "haar" else None,
            transform=transform,
            channels=channels,
            network=network,
            branches="detail",
        )
        own = [
            fabricated_branch(
                plan,
                branch.name,
                box=f"box{i}",
                resolution=plan.required_resolution(branch),
                seed=i,
                counts=(9, 8, 7),
            )
            for i, branch in enumerate(plan.branches)
        ]
        read = [look_at_branch(data, name="f") for data in own]
        branches += own
        ensembles += [
            merge_files(read, options=options).model
            for options in (Options(), Options(robust="median"), Options(threshold=0.5))
        ]
    return Seeds(tuple(branches), tuple(ensembles))


def main() -> int:
    """Go on for a time, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    asked = parser.parse_args()
    seeds, outcomes, watch = honest_seeds(), Outcomes(), Watch()
    rng = np.random.default_rng(asked.seed)
    for _ in range(50):  # what is imported on first use
        one_case(seeds, rng, Outcomes())
    sys.stdout.write(f"seed {asked.seed}\n")
    end, slowest = time.monotonic() + 60 * asked.minutes, 0.0
    while time.monotonic() < end:
        state = rng.bit_generator.state
        start = time.process_time()
        try:
            with watch:
                one_case(seeds, rng, outcomes)
            assert not watch.seen, watch.seen
        except BaseException:
            sys.stdout.write(f"case {outcomes.cases} of seed {asked.seed}; state {state}\n")
            raise
        slowest = max(slowest, time.process_time() - start)
    for kind, count in sorted(outcomes.counts.items()):
        sys.stdout.write(f"{count:>9}  {kind}\n")
    sys.stdout.write(
        f"{outcomes.cases:>9}  cases; slowest {slowest:.3f} s of processor time; "
        "no file, process or socket opened\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
