"""Walks through the entropy-coded data of a JPEG's scan."""

from collections.abc import Sequence
from dataclasses import dataclass, field


class DamagedError(Exception):
    """The file cannot be mended."""


class CutError(DamagedError):
    """The file ends before its end marker."""


@dataclass(frozen=True)
class Component:
    """A component of a frame.

    Attributes:
        across: blocks side by side in a unit of an interleaved scan.
        down: blocks one below the other in such a unit.
        blocks: blocks in a scan of this component alone.
        nonzero: for each of these blocks, the coefficients that are not 0 so far, as bits.
    """

    across: int
    down: int
    blocks: int
    nonzero: list[int] = field(default_factory=list)


def is_padded(plain: bytes, used: int) -> bool:
    """Tells whether fewer than 8 bits are left after those used, and all are ones as is due."""
    left = 8 * len(plain) - used
    if not 0 < left < 8:
        return left == 0
    ones = (1 << left) - 1
    return plain[-1] & ones == ones


_BITS = 16
"""The longest Huffman code."""


def lookup(counts: bytes, values: bytes) -> list[int]:
    """Returns a table by the next 16 bits: code length << 8 | value, or 0 if there is no code."""
    table: list[int] = []
    position = 0
    for length, count in enumerate(counts, start=1):
        for value in values[position : position + count]:
            table += [length << 8 | value] * (1 << (_BITS - length))
        position += count
    if len(table) > 1 << _BITS:
        raise DamagedError
    return table + [0] * ((1 << _BITS) - len(table))


@dataclass(frozen=True)
class Scan:
    """The structure of a scan's data (ITU-T T.81, annexes F and G).

    Attributes:
        parts: the scan's components, each with its DC and its AC table.
        units: number of groups of blocks.
        is_progressive: whether the scan is progressive; only then the next three count.
        first: the first coefficient of each block that the scan codes.
        last: the last coefficient of each block that the scan codes.
        high: the bit position that earlier scans of these coefficients reached; 0 for the first
            scan.
    """

    parts: tuple[tuple[Component, Sequence[int], Sequence[int]], ...]
    units: int
    is_progressive: bool
    first: int
    last: int
    high: int

    @property
    def blocks(self) -> int:
        """The number of blocks in a unit."""
        return len(self._blocks_of_a_unit())

    def read(self, data: bytes, units: range) -> int:
        """Walks over the codes of some units.

        Args:
            data: entropy-coded bytes, without stuffed ones.
            units: numbers of the units.

        Returns:
            The number of bits that the units take.

        Raises:
            _DamagedError: there is a code that does not exist, or a block that is too long.
        """
        bits = _Bits(data)
        if not self.is_progressive:
            blocks = self._blocks_of_a_unit()
            for _ in units:
                for dc, ac in blocks:
                    bits.skip_value(dc)
                    _skip_sequential(bits, ac)
        elif self.first == 0:
            for _ in units:
                for dc, _ in self._blocks_of_a_unit():
                    if self.high:
                        bits.skip(1)
                    else:
                        bits.skip_value(dc)
        else:
            self._read_ac(bits, units)
        return bits.position

    def goes_on(self, data: bytes, position: int) -> bool:
        """Tells whether the bits from a position on read as blocks, up to the end of the bytes."""
        if self.is_progressive:
            # Progressive blocks are short: most bytes would read as some.
            return False
        bits = _Bits(data)
        bits.position = position
        try:
            while bits.position < 8 * len(data):
                for dc, ac in self._blocks_of_a_unit():
                    bits.skip_value(dc)
                    _skip_sequential(bits, ac)
                    if is_padded(data, bits.position):
                        return True
        except DamagedError:
            return False
        return False

    def _blocks_of_a_unit(self) -> list[tuple[Sequence[int], Sequence[int]]]:
        if len(self.parts) == 1:
            return [self.parts[0][1:]]
        return [(dc, ac) for part, dc, ac in self.parts for _ in range(part.across * part.down)]

    def _read_ac(self, bits: "_Bits", units: range) -> None:
        if len(self.parts) != 1 or self.last > 63:
            raise DamagedError
        component, _, table = self.parts[0]
        if not component.nonzero:
            component.nonzero.extend([0] * component.blocks)
        run = 0
        read = self._refine if self.high else self._read_first
        for block in units:
            component.nonzero[block], run = read(bits, table, component.nonzero[block], run)
        if run:
            raise DamagedError

    def _read_first(
        self, bits: "_Bits", table: Sequence[int], nonzero: int, run: int
    ) -> tuple[int, int]:
        """Reads a block's coefficients for the first time; `run` counts blocks that have none."""
        if run:
            return nonzero, run - 1
        at = self.first
        while at <= self.last:
            zeros, size = divmod(bits.code(table), 16)
            if size == 0 and zeros < 15:
                return nonzero, (1 << zeros) + bits.take(zeros) - 1
            at += zeros
            bits.skip(size)
            if at > self.last:
                raise DamagedError
            nonzero |= (size > 0) << at
            at += 1
        return nonzero, 0

    def _refine(
        self, bits: "_Bits", table: Sequence[int], nonzero: int, run: int
    ) -> tuple[int, int]:
        """Reads one more bit of each coefficient (ITU-T T.81, G.1.2.3)."""
        at = self.first
        known = nonzero
        while at <= self.last and run == 0:
            zeros, size = divmod(bits.code(table), 16)
            if size == 0 and zeros < 15:
                run = (1 << zeros) + bits.take(zeros)
                break
            bits.skip(size)
            while at <= self.last and (known >> at & 1 or zeros):
                if known >> at & 1:
                    bits.skip(1)
                else:
                    zeros -= 1
                at += 1
            if size > 1 or (size and at > self.last):
                raise DamagedError
            nonzero |= size << at
            at += 1
        if run:
            left = known >> at & ((1 << max(0, self.last - at + 1)) - 1)
            bits.skip(left.bit_count())
            run -= 1
        return nonzero, run


def _skip_sequential(bits: "_Bits", table: Sequence[int]) -> None:
    at = 1
    while at < 64:
        zeros, size = divmod(bits.code(table), 16)
        if size == 0 and zeros < 15:
            return
        at += zeros + 1
        bits.skip(size)
    if at > 64:
        raise DamagedError


class _Bits:
    """A position in entropy-coded data, from which codes and bits are read.

    Attributes:
        position: number of bits before it.
    """

    def __init__(self, data: bytes) -> None:
        # As libjpeg, which goes on with zeros where bytes are missing.
        self._data = data + bytes(4)
        self._end = 8 * len(data)
        self.position = 0

    def code(self, table: Sequence[int]) -> int:
        """Reads the Huffman code that begins here; returns its value."""
        position = self.position
        byte = position >> 3
        window = int.from_bytes(self._data[byte : byte + 3], "big") >> (8 - (position & 7))
        entry = table[window & 0xFFFF] if table else 0
        if entry == 0 or position >= self._end:
            raise DamagedError
        self.position = position + (entry >> 8)
        return entry & 0xFF

    def skip_value(self, table: Sequence[int]) -> None:
        """Skips a Huffman code, and as many bits after it as its value says."""
        size = self.code(table)
        if size > 16:
            raise DamagedError
        self.position += size

    def skip(self, bits: int) -> None:
        """Skips some bits."""
        self.position += bits

    def take(self, bits: int) -> int:
        """Reads the next bits as a number."""
        first = self.position
        self.position += bits
        byte = first >> 3
        window = int.from_bytes(self._data[byte : byte + 4].ljust(4, b"\x00"), "big")
        return window >> (32 - (first & 7) - bits) & ((1 << bits) - 1)
