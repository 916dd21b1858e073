"""An ONNX file looked through on the wire: what is in it, how much, and what of it is not ours.

Counting takes a microsecond a field and no memory. A parser takes up to 150 bytes for every two of
a hostile file, and what it builds is then walked by others; so this comes first, always.
"""

from dataclasses import dataclass, field

from edge_stl.gate._wire import LENGTH, VARINT, Refused, Unreadable, fields


OPERATORS = frozenset({
    "Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Div", "Flatten", "Gather", "Gemm",
    "Greater", "Identity", "InstanceNormalization", "Log", "MatMul", "MaxPool", "Mul", "ReduceMax",
    "ReduceMin", "Relu", "Reshape", "Slice", "Softmax", "Sub", "Sum", "TopK", "Transpose",
    "Unsqueeze",
})  # fmt: skip
"""What our graphs may hold beside the ``If`` of a cascade."""

MAX_FILE_BYTES = 2_000_000_000
"""Cap before any plan is known; protobuf itself ends at 2 GiB."""

_MOST_FIELDS = 800_000
"""Of a model. An ensemble of a thousand branch files has about half of that."""

_MOST_ENTRIES = 1000
"""Of a model's metadata; ours have three or seven."""

_DEEPEST = 16
"""Graphs in graphs; a cascade has one less than the plan has resolutions, so at most eight."""

_MOST_TYPED = 16 << 20
"""Bytes of numbers that are not ``raw_data``: an integer of one byte there becomes eight."""

_MOST_TEXT = 64 << 20
"""Bytes of names, texts and metadata."""

_LONGEST_TEXT = 33 << 20
"""Bytes of a metadata entry; the record of an ensemble has 32 MiB at most."""

_LONGEST_NAME = 1 << 16

_LARGEST_INTEGER = 1 << 16
"""Of an attribute of our graphs: axes, kernel sides, paddings."""

_SHOWN = 60  # characters of a stranger's name in a sentence


@dataclass
class Outline:
    """What a model holds, by count.

    Attributes:
        metadata: ``metadata_props``.
        foreign: what no file of edge-stl has, a phrase each, in order of appearance.
        nodes: in all graphs.
        tensors: initializers of all graphs and tensors in attributes.
        fields: of protobuf, what it costs to parse.
    """

    metadata: dict[str, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    nodes: int = 0
    tensors: int = 0
    fields: int = 0
    _text: int = 0
    _typed: int = 0

    def note(self, what: str) -> None:
        """Add what is not ours, once."""
        if what not in self.foreign and len(self.foreign) < 20:  # noqa: PLR2004  (to be read)
            self.foreign.append(what)


def scan_model(data: bytes) -> Outline:
    """Look through the bytes of a model.

    Raises:
        Unreadable: they are no ONNX file, or not all of one.
        Refused: they hold more than a model does, so that parsing them would cost too much.
    """
    scan = _Scan(data)
    scan.message("model", 0, len(data), 0)
    outline = scan.outline
    if not outline.nodes and not outline.metadata:
        raise Unreadable
    return outline


# Per message: field number -> (wire type, what it is). A word that is a key here is a message; of
# the others `text` and `raw` are bytes, `number` and `integer` are numbers. What stands after "!"
# is not ours, and is said so.
_TEXT, _NUMBER = (LENGTH, "text"), (VARINT, "number")
_DOC = (LENGTH, "!a doc_string")
_META = (LENGTH, "!metadata below the model")
_SCHEMA: dict[str, dict[int, tuple[int, str]]] = {
    "model": {
        1: _NUMBER, 2: _TEXT, 3: (LENGTH, "!a producer version"), 4: (LENGTH, "!a model domain"),
        5: (VARINT, "!a model version"), 6: _DOC, 7: (LENGTH, "graph"), 8: (LENGTH, "opset"),
        14: (LENGTH, "entry"), 20: (LENGTH, "!training_info"), 25: (LENGTH, "function"),
        26: (LENGTH, "!a device configuration"),
    },
    "opset": {1: (LENGTH, "domain"), 2: _NUMBER},
    "entry": {1: (LENGTH, "raw"), 2: (LENGTH, "raw")},
    "graph": {
        1: (LENGTH, "node"), 2: _TEXT, 5: (LENGTH, "tensor"), 10: _DOC, 11: (LENGTH, "value"),
        12: (LENGTH, "value"), 13: (LENGTH, "!value_info"),
        14: (LENGTH, "!a quantization annotation"), 15: (LENGTH, "!a sparse tensor"), 16: _META,
    },
    "node": {
        1: _TEXT, 2: _TEXT, 3: _TEXT, 4: (LENGTH, "operator"), 5: (LENGTH, "attribute"), 6: _DOC,
        7: (LENGTH, "domain"), 8: (LENGTH, "!an overload"), 9: _META,
        10: (LENGTH, "!a device configuration"),
    },
    "attribute": {
        1: _TEXT, 2: (5, "raw"), 3: (VARINT, "integer"), 4: (LENGTH, "!a text attribute"),
        5: (LENGTH, "!a tensor in an attribute"), 6: (LENGTH, "body"),
        7: (5, "!an attribute of several floats"), 8: (VARINT, "integer"),
        9: (LENGTH, "!a text attribute"), 10: (LENGTH, "!a tensor in an attribute"),
        11: (LENGTH, "!several graphs in an attribute"), 13: _DOC,
        14: (LENGTH, "!a type in an attribute"), 15: (LENGTH, "!a type in an attribute"),
        20: _NUMBER, 21: (LENGTH, "!a reference to a function's attribute"),
        22: (LENGTH, "!a sparse tensor"), 23: (LENGTH, "!a sparse tensor"),
    },
    "tensor": {
        1: _NUMBER, 2: _NUMBER, 3: (LENGTH, "!a tensor in segments"), 4: (LENGTH, "typed"),
        5: (LENGTH, "typed"), 6: (LENGTH, "typed"), 7: (LENGTH, "typed"), 8: _TEXT,
        9: (LENGTH, "raw"), 10: (LENGTH, "typed"), 11: (LENGTH, "typed"), 12: _DOC,
        13: (LENGTH, "!a tensor kept in another file"), 14: (VARINT, "location"), 16: _META,
    },
    "value": {1: _TEXT, 2: (LENGTH, "type"), 3: _DOC, 4: _META},
    "type": {
        1: (LENGTH, "tensor type"), 4: (LENGTH, "!a value that is no tensor"),
        5: (LENGTH, "!a value that is no tensor"), 6: (LENGTH, "!a denotation"),
        7: (LENGTH, "!a value that is no tensor"), 8: (LENGTH, "!a value that is no tensor"),
        9: (LENGTH, "!a value that is no tensor"),
    },
    "tensor type": {1: _NUMBER, 2: (LENGTH, "shape")},
    "shape": {1: (LENGTH, "dimension")},
    "dimension": {1: _NUMBER, 2: _TEXT, 3: (LENGTH, "!a denotation")},
    # Only foreign models have functions; their nodes count too.
    "function": {
        1: _TEXT, 4: _TEXT, 5: _TEXT, 6: _TEXT, 7: (LENGTH, "node"), 8: _DOC, 9: (LENGTH, "opset"),
        10: _TEXT, 11: (LENGTH, "attribute"), 12: (LENGTH, "value"), 13: _TEXT, 14: _META,
    },
}  # fmt: skip

# What is not ours is looked through all the same where it can hold more of itself.
_INSIDE = {
    "!training_info": "training",
    "!value_info": "value",
    "!a tensor in an attribute": "tensor",
    "!several graphs in an attribute": "graph",
    "!a sparse tensor": "sparse tensor",
    "!a quantization annotation": "annotation",
    "!metadata below the model": "entry",
    "!a tensor kept in another file": "entry",
    "!a value that is no tensor": "other type",
    "!a type in an attribute": "type",
    "!a device configuration": "other",
}
_SCHEMA |= {
    "training": {
        1: (LENGTH, "graph"),
        2: (LENGTH, "graph"),
        3: (LENGTH, "entry"),
        4: (LENGTH, "entry"),
    },
    "sparse tensor": {1: (LENGTH, "tensor"), 2: (LENGTH, "tensor"), 3: _NUMBER},
    "annotation": {1: _TEXT, 2: (LENGTH, "entry")},
    "other type": {1: (LENGTH, "type"), 2: (LENGTH, "type")},
    "other": {},
}


_SPECIAL = {"domain", "integer", "location", "typed", "body"}


class _Scan:
    """One walk through a file; recursion ends at `_DEEPEST` graphs."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.outline = Outline()
        self._bodies = 0

    def message(self, kind: str, start: int, end: int, depth: int) -> None:
        """Count a message and all inside it."""
        schema, outline = _SCHEMA[kind], self.outline
        bodies, operator = self._bodies, ""
        outline.nodes += kind == "node"
        outline.tensors += kind == "tensor"
        depth += kind in {"graph", "type"}
        if depth > _DEEPEST:
            raise Refused(f"holds more than {_DEEPEST} graphs or types inside each other")
        for number, wire, a, b in fields(self._data, start, end):
            outline.fields += 1
            if outline.fields > _MOST_FIELDS:
                raise Refused(f"holds more than {_MOST_FIELDS:,} fields; no model of edge-stl does")
            expected, what = schema.get(number, (-1, ""))
            if wire != expected:
                self._unexpected(kind, number, wire, a, b)
            elif what == "text":
                self._name(a, b)
            elif what == "operator":
                operator = self._operator(a, b)
            elif what in _SCHEMA:
                self._inside(kind, what, a, b, depth)
            elif what in _SPECIAL:
                self._special(what, a, b, depth)
            else:
                self._foreign(what, wire, a, b, depth)
        if kind == "node" and self._bodies > bodies and operator != "If":
            outline.note(f"a subgraph in {operator[:_SHOWN]!r}")

    def _inside(self, kind: str, what: str, a: int, b: int, depth: int) -> None:
        """Go into a message."""
        if kind == "model" and what == "entry":
            self._entry(a, b)
        if what == "function":
            self.outline.note("a local function")
        self.message(what, a, b, depth)

    def _foreign(self, what: str, wire: int, a: int, b: int, depth: int) -> None:
        """Note what is not ours, and go into it where it can hold more of itself."""
        if not what.startswith("!"):
            return  # a number
        self.outline.note(what[1:])
        if what in _INSIDE:
            self.message(_INSIDE[what], a, b, depth)
        elif wire == LENGTH:
            self._count_text(b - a)

    def _operator(self, a: int, b: int) -> str:
        name = self._text_at(a, b)
        if name not in OPERATORS and name != "If":
            self.outline.note(f"operator {name[:_SHOWN]!r}")
        return name

    def _special(self, what: str, a: int, b: int, depth: int) -> None:
        """Look at a field whose content counts."""
        if what == "domain":
            name = self._text_at(a, b)
            if name:
                self.outline.note(f"domain {name[:_SHOWN]!r}")
        elif what == "integer":
            signed = a - (1 << 64) if a >> 63 else a
            if abs(signed) > _LARGEST_INTEGER:
                self.outline.note(f"an attribute of {signed}")
        elif what == "location" and a:
            self.outline.note("a tensor kept in another file")
        elif what == "typed":
            self._count_typed(b - a)
        elif what == "body":
            self._bodies += 1
            self.message("graph", a, b, depth)

    def _unexpected(self, kind: str, number: int, wire: int, a: int, b: int) -> None:
        """Count a field that ONNX does not have, or has in another form."""
        # Packed or not, both forms of repeated numbers are legal; ours are of one form.
        if kind == "tensor" and number in {4, 5, 7, 10, 11}:
            self._count_typed(8)
            return
        if wire == LENGTH:
            numbers = (kind, number) in {("tensor", 1), ("attribute", 7), ("attribute", 8)}
            if numbers or (kind, number) == ("sparse tensor", 3):
                self._count_typed(b - a)
            else:
                self._count_text(b - a)
        self.outline.note(f"field {number} in a {kind}, which is not part of it")

    def _entry(self, start: int, end: int) -> None:
        """Take an entry of the model's metadata."""
        key = value = ""
        for number, wire, a, b in fields(self._data, start, end):
            if wire == LENGTH and number in {1, 2}:
                text = self._text_at(a, b)
                key, value = (text, value) if number == 1 else (key, text)
        if key in self.outline.metadata:
            self.outline.note(f"metadata {key[:_SHOWN]!r} twice")
        self.outline.metadata[key] = value
        if len(self.outline.metadata) > _MOST_ENTRIES:
            raise Refused(f"holds more than {_MOST_ENTRIES:,} metadata entries")

    def _name(self, a: int, b: int) -> None:
        """Need text: protobuf takes other bytes for a name and gives them back as bytes."""
        if b - a > _LONGEST_NAME:
            raise Refused(f"holds a name of {b - a:,} bytes")
        self._text_at(a, b)

    def _text_at(self, a: int, b: int) -> str:
        self._count_text(b - a)
        if b - a > _LONGEST_TEXT:
            raise Refused(f"holds a text of {b - a:,} bytes")
        try:
            return self._data[a:b].decode()
        except UnicodeDecodeError:
            raise Unreadable from None

    def _count_text(self, size: int) -> None:
        self.outline._text += size  # noqa: SLF001  (of this module)
        if self.outline._text > _MOST_TEXT:  # noqa: SLF001
            raise Refused(f"holds more than {_MOST_TEXT >> 20} MiB of text")

    def _count_typed(self, size: int) -> None:
        self.outline.note("numbers that are not raw data")
        self.outline._typed += size  # noqa: SLF001
        if self.outline._typed > _MOST_TYPED:  # noqa: SLF001
            raise Refused(f"holds more than {_MOST_TYPED >> 20} MiB of numbers that are not raw")
