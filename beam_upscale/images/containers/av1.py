"""Reads the size of the pictures in an AV1 stream (AV1 Bitstream and Decoding Process, 5.5.1)."""

from dataclasses import dataclass

from beam_upscale.images.containers.parts import unpack

_SEQUENCE_HEADER = 1
"""The type of the unit that has the size."""
_MOST_UNITS = 64
_MOST_HEADER_BYTES = 1024


@dataclass(frozen=True)
class CodedSize:
    """The size of the pictures in a stream.

    Attributes:
        is_exact: True if all pictures have this size; False if it is only their upper limit.
    """

    width: int
    height: int
    is_exact: bool

    def is_of(self, width: int, height: int) -> bool:
        """Tells whether a picture of this stream can have a width and a height."""
        if self.is_exact:
            return (width, height) == (self.width, self.height)
        return width <= self.width and height <= self.height


def coded_size(data: bytes, start: int, end: int) -> CodedSize | None:
    """Reads the size from the first sequence header; None if there is none.

    Args:
        data: the file's bytes.
        start: the offset at which the stream begins.
        end: the offset of the byte after the stream.

    Raises:
        ImageError: TRUNCATED.
    """
    position = start
    for _ in range(_MOST_UNITS):
        if position >= end:
            return None
        (head,) = unpack("B", data, position)
        has_extension, has_size = head & 4, head & 2
        position += 2 if has_extension else 1
        size = end - position
        if has_size:
            size, position = _leb128(data, position)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            return _size_in(_Bits(data[position : position + min(size, _MOST_HEADER_BYTES)]))
        position += size
    return None


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """Reads a LEB128 number of up to 8 bytes, the lowest first; returns it and its end."""
    value = 0
    for number in range(8):
        (byte,) = unpack("B", data, position + number)
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, position + number + 1
    return value, position + 8


class _Bits:
    """A reader of bits, the highest of each byte first; after the last byte, bits are 0."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else 0
        return value & (1 << count) - 1

    def skip_uvlc(self) -> None:
        """Skips a number that begins with as many zeros as it has bits after its first 1."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        self.take(zeros if zeros < 32 else 0)


def _size_in(bits: _Bits) -> CodedSize:
    bits.take(3 + 1)  # seq_profile, still_picture
    is_reduced = bool(bits.take(1))
    if is_reduced:
        bits.take(5)  # seq_level_idx
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    return CodedSize(width, height, is_reduced)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = _skip_timing(bits) if bits.take(1) else 0
    has_display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)  # operating_point_idc
        if bits.take(5) > 7:
            bits.take(1)  # seq_tier
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_display_delay and bits.take(1):
            bits.take(4)


def _skip_timing(bits: _Bits) -> int:
    """Skips the timing; returns the bits of a buffer's delay, 0 without a decoder model."""
    bits.take(32 + 32)
    if bits.take(1):
        bits.skip_uvlc()
    if not bits.take(1):
        return 0
    delay_bits = bits.take(5) + 1
    bits.take(32 + 5 + 5)
    return delay_bits
