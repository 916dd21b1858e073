"""A small builder of ONNX graphs: nodes and raw initializers in, canonical bytes out.

A `Graph` may have bodies: the two graphs of an ``If``. A body reads the values around it and holds
its own initializers, so that what is not computed is not prepared either.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from exporter import names


class Graph:
    """Nodes and initializers of a model under construction; order of calls is order of bytes.

    Args:
        outer: the graph that this one is a body of.
        scope: put before the name of a constant that the graphs around this one have too.
    """

    def __init__(self, *, outer: "Graph | None" = None, scope: str = "") -> None:
        self._nodes: list[onnx.NodeProto] = []
        # header and numbers apart, so that a large model is in memory once until it is put together
        self._initializers: dict[str, tuple[bytes, NDArray[Any]]] = {}
        self._outer = outer
        self._scope = scope

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        *,
        further: int = 0,
        **attributes: Any,
    ) -> str:
        """Add a node, named like its first output, and return that name.

        Args:
            operator: of the default domain.
            inputs: names of values.
            output: name of the first output.
            further: outputs beyond the first that the operator has and nobody reads.
            attributes: of the operator.
        """
        outputs = [output, *(f"{output}.{i}" for i in range(1, further + 1))]
        self._nodes.append(
            helper.make_node(operator, list(inputs), outputs, name=output, **attributes)
        )
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer as little-endian ``raw_data`` and return its name.

        The same name may be given again with the same values, so that parts can share constants.

        Raises:
            ValueError: the name is taken by other values.
        """
        if self._outer is not None and self._outer.holds(name):
            name = f"{self._scope}{name}"
        array = np.asarray(values, order="C")  # ascontiguousarray would make a scalar a vector
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        header = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype.newbyteorder("=")),
            dims=array.shape,
        ).SerializeToString(deterministic=True)
        held_header, held = self._initializers.setdefault(name, (header, array))
        if held_header != header or held.tobytes() != array.tobytes():
            raise ValueError(f"initializer {name} stands twice with different values")
        return name

    def holds(self, name: str) -> bool:
        """Return whether this graph or one around it has an initializer of that name."""
        if name in self._initializers:
            return True
        return self._outer is not None and self._outer.holds(name)

    def choose(
        self,
        condition: str,
        outputs: Sequence[str],
        then: tuple["Graph", Sequence[onnx.ValueInfoProto]],
        otherwise: tuple["Graph", Sequence[onnx.ValueInfoProto]],
    ) -> None:
        """Add an ``If``: one body where the condition holds, the other where it does not.

        Args:
            condition: a scalar bool value.
            outputs: names of the values that come out, one per output of either body.
            then: a body and its outputs, whose names are its own.
            otherwise: the same.
        """
        (then_body, made), (else_body, made_otherwise) = then, otherwise
        self._nodes.append(
            helper.make_node(
                "If",
                [condition],
                list(outputs),
                name=f"{condition}.if",
                then_branch=then_body.as_body(made),
                else_branch=else_body.as_body(made_otherwise),
            )
        )

    def as_body(self, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.GraphProto:
        """Return this graph as a body with these outputs."""
        name = f"{self._scope}body"
        tensors = []
        for header, array in self._initializers.values():
            tensors.append(TensorProto.FromString(header))
            tensors[-1].raw_data = array.tobytes()
        return helper.make_graph(self._nodes, name, [], list(outputs), tensors)

    def model(
        self,
        *,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: Mapping[str, str],
    ) -> bytes:
        """Return the serialized model; the same calls give the same bytes.

        They are those of protobuf's deterministic serialization, put together from its parts,
        because protobuf itself would hold all numbers three times.
        """
        before = onnx.ModelProto(
            ir_version=names.IR_VERSION,
            producer_name=names.PRODUCER,
        )
        after = onnx.ModelProto(opset_import=[helper.make_opsetid("", names.OPSET)])
        for key in sorted(metadata):
            after.metadata_props.add(key=key, value=metadata[key])
        parts: list[Any] = [_bytes(onnx.GraphProto(node=self._nodes, name=name))]
        for header, array in self._initializers.values():
            numbers = array.reshape(-1).view(np.uint8)
            own = header + _field(TensorProto, "raw_data", len(numbers))
            parts += [_field(onnx.GraphProto, "initializer", len(own) + len(numbers)), own, numbers]
        parts.append(_bytes(onnx.GraphProto(input=list(inputs), output=list(outputs))))
        size = sum(len(part) for part in parts)
        return b"".join(
            [_bytes(before), _field(onnx.ModelProto, "graph", size), *parts, _bytes(after)]
        )


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _field(message: Any, name: str, size: int) -> bytes:
    """Return what stands before a field of ``size`` bytes on protobuf's wire: tag and length."""
    out = bytearray()
    for number in (message.DESCRIPTOR.fields_by_name[name].number << 3 | 2, size):
        while number > 0x7F:  # noqa: PLR2004  (seven bits a byte, the eighth says: more)
            out.append(number & 0x7F | 0x80)
            number >>= 7  # noqa: PLW2901  (consumed)
        out.append(number)
    return bytes(out)


def value(name: str, dtype: int, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    """Return a named graph input or output; a string is a symbolic dimension."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and, after it, those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from all_graphs(body)
