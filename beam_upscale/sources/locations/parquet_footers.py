"""The metadata of columns in a Parquet file's footer, read without Arrow.

If a footer is damaged, asking Arrow for a column's metadata ends the whole process: its C++
exception is not caught. Arrow is used for all parts that it reads safely, and this module for the
rest.

The form is Thrift's compact protocol (thrift-compact-protocol.md in github.com/apache/thrift), the
fields are those of parquet.thrift in github.com/apache/parquet-format.
"""

import dataclasses
from typing import Any, BinaryIO

_MAGIC = b"PAR1"
_TAIL = 8
_DEEPEST = 32

# Types of the compact protocol.
_TRUE, _FALSE, _BYTE, _SHORT, _INT, _LONG = 1, 2, 3, 4, 5, 6
_DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 7, 8, 9, 10, 11, 12

# Fields, by their structs.
_ROW_GROUPS = 4
_COLUMNS = 1
_META_DATA = 3
_PATH, _SIZE, _STATISTICS = 3, 6, 12
_NULL_COUNT, _MIN_VALUE = 3, 6


@dataclasses.dataclass(frozen=True)
class ColumnChunk:
    """The metadata of a column in a row group.

    Attributes:
        path: path of the column, with dots between its parts.
        size: size in bytes, uncompressed.
        nulls: number of missing values; None if it is not stated.
        least: the least value, or a lower bound; None if it is not stated.
    """

    path: str
    size: int
    nulls: int | None
    least: bytes | None


def column_chunks(file: BinaryIO, column: str) -> list[ColumnChunk | None]:
    """Reads the metadata of a column's chunks, by row group.

    Args:
        file: the whole file.
        column: path of a column, with dots between its parts.

    Returns:
        A chunk for each row group, None if the group lacks the column; an empty list if the
        footer is damaged.
    """
    end = file.seek(0, 2)
    file.seek(max(0, end - _TAIL))
    tail = file.read(_TAIL)
    size = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or size + _TAIL > end:
        return []
    file.seek(end - _TAIL - size)
    try:
        groups = _Reader(file.read(size)).struct().get(_ROW_GROUPS, [])
        return [_chunk(group.get(_COLUMNS, []), column) for group in groups]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        # In a damaged footer, any value may be of a wrong type.
        return []


def _chunk(columns: list[Any], column: str) -> ColumnChunk | None:
    for each in columns:
        found = each[_META_DATA]
        path = b".".join(found[_PATH]).decode()
        if path == column:
            statistics = found.get(_STATISTICS, {})
            nulls, least = statistics.get(_NULL_COUNT), statistics.get(_MIN_VALUE)
            return ColumnChunk(
                path,
                int(found[_SIZE]),
                nulls if isinstance(nulls, int) else None,
                least if isinstance(least, bytes) else None,
            )
    return None


class _Reader:
    """Reads values of the compact protocol.

    Its methods raise IndexError if the data ends, ValueError if it breaks the protocol.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Reads the fields of a struct, by their numbers."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if kind in (_SHORT, _INT, _LONG):
            return self._signed()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth + 1)
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _MAP:
            return self._map(depth + 1)
        raise ValueError(f"no type is {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4
        if count == 15:
            count = self._varint()
        return [self._value(head & 15, depth) for _ in range(count)]

    def _map(self, depth: int) -> dict[Any, Any]:
        count = self._varint()
        kinds = self._byte() if count else 0
        pairs = [
            (self._value(kinds >> 4, depth), self._value(kinds & 15, depth)) for _ in range(count)
        ]
        return dict(pairs)

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("more than 64 bits")

    def _bytes(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        if len(data) != size:
            raise IndexError("the data ends")
        self._at += size
        return data

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte
