"""Hostile files, made by hand: what onnx and protobuf would build themselves is not asked."""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


ROOM = 300_000_000
"""Bytes that refusing a file may take."""


def varint(number: int) -> bytes:
    out = bytearray()
    number &= (1 << 64) - 1
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def part(number: int, content: bytes) -> bytes:
    """Return a field of bytes, or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def entry(key: str, value: str) -> bytes:
    return part(14, part(1, key.encode()) + part(2, value.encode()))


def kind_of(kind: str) -> bytes:
    return entry("edge_stl.format", "1") + entry("edge_stl.kind", kind)


def graph(content: bytes) -> bytes:
    return part(7, content)


def deep(levels: int, *, odd: bool = False) -> bytes:
    """Return a graph with so many inside it, each in an ``If`` (or a ``Conv``)."""
    operator = b"Conv" if odd else b"If"
    inner = part(2, b"g")
    for _ in range(levels):
        attribute = part(1, b"then_branch") + part(6, inner) + number(20, 5)
        inner = part(1, part(4, operator) + part(5, attribute))
    return graph(inner)


def nested_functions(levels: int) -> bytes:
    """Return functions of which each calls the one before it twice: 2^levels nodes when inlined."""
    made = []
    for i in range(levels):
        call = ("Relu", "") if i == 0 else (f"F{i - 1}", "f")
        nodes = [
            helper.make_node(call[0], ["x"], ["m"], domain=call[1]),
            helper.make_node(call[0], ["m"], ["y"], domain=call[1]),
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        made.append(helper.make_function("f", f"F{i}", ["x"], ["y"], nodes, opsets))
    node = helper.make_node(f"F{levels - 1}", ["x"], ["y"], domain="f")
    return model([node], functions=made)


def model(
    nodes: Iterable[onnx.NodeProto],
    *,
    functions: Iterable[onnx.FunctionProto] = (),
    initializers: Iterable[TensorProto] = (),
) -> bytes:
    io = [helper.make_tensor_value_info(n, 1, ["batch", 3]) for n in "xy"]
    made = helper.make_graph(list(nodes), "g", io[:1], io[1:], list(initializers))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    built = helper.make_model(made, opset_imports=opsets, ir_version=8, functions=list(functions))
    return built.SerializeToString()


def loop() -> bytes:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", 1, None),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", 1, None),
        ],
    )
    trips = numpy_helper.from_array(np.array(10**12, np.int64), "trips")
    node = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    return model([node], initializers=[trips])


def huge(operator: str) -> bytes:
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "shape")
    inputs = ["shape"] if operator == "ConstantOfShape" else ["x", "shape"]
    return model([helper.make_node(operator, inputs, ["y"])], initializers=[shape])


def external(location: str) -> bytes:
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[tensor])


def tensors(count: int) -> bytes:
    return graph(
        b"".join(part(5, number(1, 0) + number(2, 1) + part(8, b"t%d" % i)) for i in range(count))
    )


def quantized() -> bytes:
    return graph(part(14, part(1, b"w") + part(2, part(1, b"SCALE_TENSOR") + part(2, b"w"))))


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "16 nested functions": (lambda: nested_functions(16), "a local function"),
    "20 nested functions": (lambda: nested_functions(20), "a local function"),
    "a function that calls itself": (
        lambda: model(
            [helper.make_node("F", ["x"], ["y"], domain="f")],
            functions=[
                helper.make_function(
                    "f", "F", ["x"], ["y"],
                    [helper.make_node("F", ["x"], ["y"], domain="f")],
                    [helper.make_opsetid("f", 1)],
                )
            ],
        ),
        "a local function",
    ),
    "Loop of 10^12": (loop, "operator 'Loop'"),
    "huge ConstantOfShape": (lambda: huge("ConstantOfShape"), "operator 'ConstantOfShape'"),
    "huge Expand": (lambda: huge("Expand"), "operator 'Expand'"),
    "a custom domain": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"], domain="evil")]),
        "domain 'evil'",
    ),
    "100,000 tensors of no size": (lambda: tensors(100_000), "no JSON|metadata is damaged"),
    "a million metadata entries": (
        lambda: b"".join(entry(f"k{i}", "") for i in range(1_000_000)),
        "holds more than 1,000 metadata entries",
    ),
    "30 million empty nodes": (
        lambda: graph(part(1, b"") * 30_000_000),
        "holds more than 800,000 fields",
    ),
    "a million dimensions": (
        lambda: graph(part(5, number(1, 1) * 1_000_000)),
        "holds more than 800,000 fields",
    ),
    "dimensions packed": (
        lambda: graph(part(5, part(1, b"\x01" * 40_000_000))),
        "holds more than 16 MiB of numbers that are not raw",
    ),
    "integers packed": (
        lambda: graph(part(5, part(7, b"\x01" * 40_000_000))),
        "holds more than 16 MiB of numbers that are not raw",
    ),
    "70 MB of text": (
        lambda: graph(part(10, b"a" * 70_000_000)),
        "holds more than 64 MiB of text",
    ),
    "a name of 70 MB": (
        lambda: graph(part(2, b"a" * 70_000_000)),
        "holds a name of 70,000,000 bytes",
    ),
    "a metadata entry of 40 MB": (
        lambda: entry("k", "a" * 40_000_000),
        "holds a text of 40,000,000 bytes",
    ),
    "a tensor's name that is no UTF-8": (
        lambda: graph(part(5, part(8, b"\xff/temperature"))),
        "is not an ONNX file",
    ),
    "17 graphs inside each other": (lambda: deep(17), "holds more than 16 graphs"),
    "20,000 graphs inside each other": (lambda: deep(20_000), "holds more than 16 graphs"),
    "a subgraph in a Conv": (lambda: deep(1, odd=True), "a subgraph in 'Conv'"),
    "groups inside each other": (lambda: b"\x0b" * 1_000_000, "is not an ONNX file"),
    "unknown messages": (lambda: part(500, b"x" * 100), "field 500 in a model"),
    "external ../x": (lambda: external("../x"), "a tensor kept in another file"),
    "external sub/../../x": (lambda: external("sub/../../x"), "a tensor kept in another file"),
    "external /proc/self/environ": (
        lambda: external("/proc/self/environ"),
        "a tensor kept in another file",
    ),
    "external in memory": (
        lambda: external("*/_ORT_MEM_ADDR_/*"),
        "a tensor kept in another file",
    ),
    "a sparse tensor": (lambda: graph(part(15, b"")), "a sparse tensor"),
    "training_info": (lambda: part(20, b""), "training_info"),
    "a quantization annotation": (quantized, "a quantization annotation"),
    "a length beyond the file": (lambda: b"\x3a\xff\xff\xff\xff\x0f", "is not an ONNX file"),
    "a length of 2^63": (lambda: b"\x3a" + varint(1 << 63), "is not an ONNX file"),
    "a varint without end": (lambda: b"\x08" + b"\xff" * 11, "is not an ONNX file"),
    "text that is no UTF-8": (
        lambda: part(14, part(1, b"\xff\xfe") + part(2, b"x")),
        "is not an ONNX file",
    ),
}  # fmt: skip
"""Name -> how it is made, and what the refusal says. `kind_of` is put after each."""


FILES = {
    "NaN weights": r"tensor 2\.weight has \d+ numbers that are NaN or infinite",
    "a hard link": r"has 3 names \(hard links\)",
    "data kept in a hard link": "a tensor kept in another file",
}
"""As `BOMBS`, of whole branch files on the disk; what the refusal says is a pattern."""


def files_in(folder: Path) -> dict[str, Path]:
    """Write them; the links lead to a file of 4 GB, were anyone to read it."""
    from edge_stl.plan import new_plan
    from exporter.branch import build_branch
    from tests.conftest import fabricated_manifest, fabricated_parameters

    plan = new_plan(classes=["a", "b"], resolution=64, levels=1, channels=3, network="mlp-s")
    parameters = fabricated_parameters(plan, "d1", seed=0)
    parameters["2.weight"] = np.full_like(parameters["2.weight"], np.nan)
    made = {name: folder / f"{i}.onnx" for i, name in enumerate(FILES)}
    secret = folder / "secret"
    with secret.open("wb") as out:
        out.truncate(4 << 30)
    made["a hard link"].hardlink_to(secret)
    (folder / "weights.bin").hardlink_to(secret)
    nan = build_branch(fabricated_manifest(plan, "d1"), plan, parameters)
    made["NaN weights"].write_bytes(nan)
    made["data kept in a hard link"].write_bytes(external("weights.bin") + kind_of("branch"))
    return made


def main(folder: Path) -> None:
    """Give every bomb to every reader, each time with room for 300 MB more than there is now."""
    import onnxruntime  # noqa: F401  (what it maps is no cost of a file)

    from edge_stl.predict import Ensemble
    from exporter.read import branch_from_bytes, read_branch
    from exporter.split import members_of

    readers: dict[str, tuple[str, Callable[[bytes], object]]] = {
        "merge": ("branch", lambda data: branch_from_bytes(data, name="f")),
        "split": ("ensemble", lambda data: members_of(data, name="f")),
        "predict": ("ensemble", Ensemble),
    }
    for name, (make, _) in BOMBS.items():
        bomb = make()
        for reader, (kind, read) in readers.items():
            if reader != "merge" and len(bomb) > 1_000_000:
                continue  # all begin with the same scan
            data = bomb + kind_of(kind)
            tell(name, reader, lambda read=read, data=data: read(data))
    for name, path in files_in(folder).items():
        tell(name, "merge", lambda path=path: read_branch(path))


def tell(name: str, reader: str, read: Callable[[], object]) -> None:
    """Read with a limit of memory, and print what came of it."""
    from edge_stl.errors import EdgeStlError
    from exporter.read import Unusable

    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, resource.RLIM_INFINITY))
    start = time.process_time()
    try:
        read()
        said = "accepted"
    except (Unusable, EdgeStlError) as verdict:
        said = str(verdict)
    except BaseException as error:  # noqa: BLE001  (what came out is what is asked)
        said = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    row = {"bomb": name, "reader": reader, "said": said, "seconds": seconds}
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
