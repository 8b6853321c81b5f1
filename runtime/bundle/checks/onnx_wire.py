"""The parts of an ONNX file that decide what loading it does, read without the onnx package.

Protocol Buffers' wire format (protobuf.dev/programming-guides/encoding) and the field numbers of
onnx.proto. What is not needed is skipped unread: weights within a file cost nothing. Whatever two
parsers may read differently (a field of one value given twice, groups) is an error here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

#: A file up to this size is read at once; of a larger one, parts as they are needed.
_READ_AT_ONCE = 8 << 20
_WINDOW = 1 << 18
#: Nodes, tensors, attributes and so on of a file; graphs of 100 layers have some 10,000.
MAX_ITEMS = 1_000_000
#: Graphs within each other.
MAX_DEPTH = 16
#: Bytes of a name, an operator, a location.
_LONGEST_TEXT = 4096

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


#: Operators of any number of inputs or outputs. Each of these must have a name: ONNX Runtime (1.32)
#: checks that of all other operators, and of these ones reads what is not there.
_MANY_INPUTS = frozenset(
    ("Concat", "Einsum", "Max", "Mean", "Min", "QLinearConcat", "SequenceConstruct", "Sum")
)
_MANY_OUTPUTS = frozenset(("If", "Loop", "Scan", "Split"))


class DamagedGraphError(ValueError):
    """A file that is no ONNX graph, or one that no writer writes."""


class Window:
    """A file as a sequence of bytes, of which a part is in memory at a time."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._start = 0
        self._part = b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, slice):
            start, stop = place.start, place.stop
        else:
            start, stop = place, place + 1
        if start < self._start or stop > self._start + len(self._part):
            self._file.seek(start)
            self._part, self._start = self._file.read(max(_WINDOW, stop - start)), start
        part = self._part[start - self._start : stop - self._start]
        if len(part) != stop - start:
            raise DamagedGraphError("it ends in the middle")
        return part if isinstance(place, slice) else part[0]


Buffer: TypeAlias = "bytes | Window"


@dataclass
class Tensor:
    """A constant of a graph.

    Attributes:
        name, dims, data_type: as in TensorProto; ``data_type`` is its number there.
        inline: bytes that the file itself holds of it.
        external: location, offset and length of what another file holds; None: nothing.
        owner: ``initializer`` of the main graph, or what else it belongs to.
    """

    owner: str
    name: str = ""
    dims: tuple[int, ...] = ()
    data_type: int = 0
    inline: int = 0
    external: dict[str, str] | None = None


@dataclass(frozen=True)
class Value:
    """An input or output of the main graph; ``shape`` None: the file says none."""

    name: str
    data_type: int
    shape: tuple[int | str | None, ...] | None


@dataclass
class OnnxFile:
    """What :func:`read_onnx` found.

    Attributes:
        opsets: version by domain.
        operators: (domain, operator) of the main graph's nodes and how many there are.
        nested: the same for graphs within nodes, and for functions.
        functions: domains of functions that the file defines.
        subgraphs: how many graphs within nodes there are.
        deepest: how many nodes the innermost of them is within.
    """

    opsets: dict[str, int] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    operators: Counter[tuple[str, str]] = field(default_factory=Counter)
    nested: Counter[tuple[str, str]] = field(default_factory=Counter)
    tensors: list[Tensor] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    subgraphs: int = 0
    deepest: int = 0


def read_onnx(path: Path) -> OnnxFile:
    """Read a file; weights in it are skipped.

    Raises:
        DamagedGraphError: it is no ONNX file, or one that no writer writes.
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        if size > _READ_AT_ONCE:
            return _Reader(Window(file, size)).model(size)
        data = file.read(size + 1)
    return _Reader(data).model(len(data))


class _Reader:
    """Reads one file. Methods take the places between which a message lies."""

    def __init__(self, data: Buffer) -> None:
        self._data = data
        self._found = OnnxFile()
        self._items = 0

    def model(self, end: int) -> OnnxFile:
        """ModelProto."""
        graphs = 0
        for number, start, stop in self._messages(0, end):
            if number == 7:
                graphs += 1
                self._graph(start, stop, 0)
            elif number == 8:
                self._opset(start, stop)
            elif number == 25:
                self._function(start, stop)
            elif number == 20:
                raise DamagedGraphError("it holds what a training needs")
        if graphs != 1:
            raise DamagedGraphError(
                "it is no ONNX model" if graphs < 1 else "it holds several graphs"
            )
        return self._found

    def _graph(self, start: int, end: int, depth: int) -> None:
        found = self._found
        if depth > MAX_DEPTH:
            raise DamagedGraphError(f"more than {MAX_DEPTH} graphs are nested")
        for number, first, last in self._messages(start, end):
            if number == 1:
                self._node(first, last, depth)
            elif number == 5:
                found.tensors.append(
                    self._tensor(first, last, "subgraph" if depth else "initializer")
                )
            elif number == 15:
                raise DamagedGraphError("it has sparse initializers, which are not supported")
            elif number in (11, 12) and not depth:
                (found.inputs if number == 11 else found.outputs).append(self._value(first, last))

    def _node(self, start: int, end: int, depth: int) -> None:
        """NodeProto."""
        operator = domain = None
        unnamed = [False, False]
        for number, wire, first, last in self._fields(start, end):
            if wire != _BYTES:
                continue
            if number in (1, 2):
                unnamed[number - 1] |= first == last
            elif number == 4:
                operator = self._once(operator, first, last)
            elif number == 7:
                domain = self._once(domain, first, last)
            elif number == 5:
                self._attribute(first, last, depth)
        if (unnamed[0] and operator in _MANY_INPUTS) or (unnamed[1] and operator in _MANY_OUTPUTS):
            raise DamagedGraphError(f"an input or output of {operator} has no name")
        counts = self._found.nested if depth else self._found.operators
        counts[(domain or "", operator or "")] += 1

    def _attribute(self, start: int, end: int, depth: int) -> None:
        """AttributeProto: only tensors and graphs in it matter."""
        for number, wire, first, last in self._fields(start, end):
            if wire != _BYTES:
                continue
            if number in (5, 10):
                self._found.tensors.append(self._tensor(first, last, "attribute"))
            elif number in (6, 11):
                self._found.subgraphs += 1
                self._found.deepest = max(self._found.deepest, depth + 1)
                self._graph(first, last, depth + 1)
            elif number in (22, 23):
                raise DamagedGraphError("it has sparse tensors, which are not supported")

    def _function(self, start: int, end: int) -> None:
        """FunctionProto."""
        domain = None
        for number, first, last in self._messages(start, end):
            if number == 7:
                self._node(first, last, 1)
            elif number == 10:
                domain = self._once(domain, first, last)
            elif number == 11:
                self._attribute(first, last, 1)
        self._found.functions.add(domain or "")

    def _tensor(self, start: int, end: int, owner: str) -> Tensor:
        """TensorProto."""
        tensor = Tensor(owner)
        dims: list[int] = []
        name, kind, where, raw = None, None, None, 0
        entries: list[tuple[str, str]] = []
        for number, wire, first, last in self._fields(start, end):
            if number == 1:
                if wire == _VARINT:
                    dims.append(_signed(first))
                else:
                    dims += self._packed(first, last)
                if len(dims) > _LONGEST_TEXT:
                    raise DamagedGraphError("a tensor has too many dimensions")
            elif number in (2, 14) and wire == _VARINT:
                if (kind if number == 2 else where) is not None:
                    raise DamagedGraphError("a tensor has two types or places")
                if number == 2:
                    kind = first
                else:
                    where = first
            elif number == 3:
                raise DamagedGraphError("a tensor is stored in segments")
            elif wire == _BYTES and number == 8:
                name = self._once(name, first, last)
            elif wire == _BYTES and number == 13:
                entries.append(self._entry(first, last))
            elif wire == _BYTES and number in (4, 5, 6, 7, 9, 10, 11):
                raw += last - first
        external = dict(entries)
        if len(external) != len(entries):
            raise DamagedGraphError(f"tensor {name}: two values of one entry")
        if bool(where) != bool(entries) or (where or 0) > 1 or (entries and raw):
            raise DamagedGraphError(f"tensor {name}: it is not clear where its data lies")
        tensor.name, tensor.dims, tensor.data_type = name or "", tuple(dims), kind or 0
        tensor.inline, tensor.external = raw, external if entries else None
        return tensor

    def _value(self, start: int, end: int) -> Value:
        """ValueInfoProto of a tensor."""
        name, kind, shape = None, 0, None
        for number, first, last in self._messages(start, end):
            if number == 1:
                name = self._once(name, first, last)
            elif number == 2:
                for inner, first_of_type, last_of_type in self._messages(first, last):
                    if inner == 1 and shape is None:
                        kind, shape = self._tensor_type(first_of_type, last_of_type)
        return Value(name or "", kind, shape)

    def _tensor_type(self, start: int, end: int) -> tuple[int, tuple[int | str | None, ...] | None]:
        kind, shape = 0, None
        for number, wire, first, last in self._fields(start, end):
            if number == 1 and wire == _VARINT:
                kind = first
            elif number == 2 and wire == _BYTES:
                sizes = [self._dimension(a, b) for n, a, b in self._messages(first, last) if n == 1]
                shape = tuple(sizes)
        return kind, shape

    def _dimension(self, start: int, end: int) -> int | str | None:
        size: int | str | None = None
        for number, wire, first, last in self._fields(start, end):
            if number == 1 and wire == _VARINT:
                size = _signed(first)
            elif number == 2 and wire == _BYTES:
                size = self._text(first, last)
        return size

    def _opset(self, start: int, end: int) -> None:
        """OperatorSetIdProto."""
        domain, version = None, 0
        for number, wire, first, last in self._fields(start, end):
            if number == 1 and wire == _BYTES:
                domain = self._once(domain, first, last)
            elif number == 2 and wire == _VARINT:
                version = first
        if (domain or "") in self._found.opsets:
            raise DamagedGraphError(f"it imports two versions of {domain or 'ONNX'}'s operators")
        self._found.opsets[domain or ""] = version

    def _entry(self, start: int, end: int) -> tuple[str, str]:
        """StringStringEntryProto."""
        key = value = None
        for number, wire, first, last in self._fields(start, end):
            if wire != _BYTES:  # asked here and not in _messages: most fields pass by
                continue
            if number == 1:
                key = self._once(key, first, last)
            elif number == 2:
                value = self._once(value, first, last)
        return key or "", value or ""

    def _once(self, old: str | None, start: int, end: int) -> str:
        if old is not None:
            raise DamagedGraphError("a field is there twice")
        return self._text(start, end)

    def _text(self, start: int, end: int) -> str:
        if end - start > _LONGEST_TEXT:
            raise DamagedGraphError(f"a name has {end - start} bytes")
        try:
            return self._data[start:end].decode()  # type: ignore[union-attr]
        except UnicodeDecodeError:
            raise DamagedGraphError("a name is not UTF-8") from None

    def _packed(self, start: int, end: int) -> list[int]:
        numbers = []
        while start < end:
            value, start = self._varint(start, end)
            numbers.append(_signed(value))
            if len(numbers) > _LONGEST_TEXT:
                raise DamagedGraphError("a tensor has too many dimensions")
        return numbers

    def _messages(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Number and places of the fields that are messages or texts."""
        for number, wire, first, last in self._fields(start, end):
            if wire == _BYTES:
                yield number, first, last

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type, and the places between which a field lies, or its value."""
        data, place = self._data, start
        self._items += 1
        if self._items > MAX_ITEMS:
            raise DamagedGraphError(f"it has more than {MAX_ITEMS} parts")
        while place < end:
            tag: int = data[place]  # type: ignore[assignment]
            place += 1
            if tag >= 0x80:
                tag, place = self._varint(place - 1, end)
            wire, number = tag & 7, tag >> 3
            if not number:  # no field has it; and holes of a file, which may be long, are zeros
                raise DamagedGraphError("it is no ONNX model")
            if wire == _BYTES:
                size: int = data[place] if place < end else 0x80  # type: ignore[assignment]
                place += 1
                if size >= 0x80:
                    size, place = self._varint(place - 1, end)
                stop = place + size
                if stop > end:
                    raise DamagedGraphError("it ends in the middle")
                yield number, _BYTES, place, stop
                place = stop
            elif wire == _VARINT:
                value, place = self._varint(place, end)
                yield number, _VARINT, value, 0
            elif wire in (_FIXED32, _FIXED64):
                place += 4 if wire == _FIXED32 else 8
            else:
                raise DamagedGraphError("it is no ONNX model")
        if place != end:
            raise DamagedGraphError("it ends in the middle")

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        """An unsigned number of at most 64 bits, and the place after it."""
        value = 0
        for shift in range(0, 70, 7):
            if place >= end:
                break
            byte: int = self._data[place]  # type: ignore[assignment]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value, place
        raise DamagedGraphError("it ends in the middle")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
