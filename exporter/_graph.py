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
        self._initializers: dict[str, onnx.TensorProto] = {}
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
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            raw_data=array.astype(array.dtype.newbyteorder("<")).tobytes(),
        )
        if self._initializers.setdefault(name, tensor) != tensor:
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
        return helper.make_graph(
            self._nodes, name, [], list(outputs), list(self._initializers.values())
        )

    def model(
        self,
        *,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: Mapping[str, str],
    ) -> bytes:
        """Return the serialized model; the same calls give the same bytes."""
        graph = helper.make_graph(
            self._nodes, name, list(inputs), list(outputs), list(self._initializers.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", names.OPSET)],
            ir_version=names.IR_VERSION,
            producer_name=names.PRODUCER,
        )
        for key in sorted(metadata):
            model.metadata_props.add(key=key, value=metadata[key])
        return bytes(model.SerializeToString(deterministic=True))


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
