"""A small builder of ONNX graphs: nodes and raw initializers in, canonical bytes out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from exporter import names


class Graph:
    """Nodes and initializers of a model under construction; order of calls is order of bytes."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

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
