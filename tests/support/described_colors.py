"""Pictures whose colors are told in some way, and what they look like, calculated by hand."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

Corners = tuple[float, float, float, float, float, float, float, float]
"""Chromaticities of red, green, blue and white: x, y, x, y, …"""

SRGB: Corners = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
DISPLAY_P3: Corners = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.3290)
ADOBE: Corners = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.3290)
BT2020: Corners = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290)
DCI: Corners = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351)

Light = Callable[[np.ndarray], np.ndarray]


def sound_profile() -> bytes:
    """A profile of sRGB of the same date on each day."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)


def srgb_light(samples: np.ndarray) -> np.ndarray:
    return np.where(samples <= 0.04045, samples / 12.92, ((samples + 0.055) / 1.055) ** 2.4)


def bt709_light(samples: np.ndarray) -> np.ndarray:
    return np.where(samples < 0.081, samples / 4.5, ((samples + 0.099) / 1.099) ** (1 / 0.45))


def power(gamma: float) -> Light:
    return lambda samples: samples**gamma


def swatches() -> np.ndarray:
    """Muted colors, which lie within sRGB by any of these primaries, and all grays."""
    random = np.random.default_rng(3)
    grays = np.repeat(np.arange(256), 3).reshape(256, 3)
    middle = random.integers(60, 200, (256, 1)) + random.integers(-25, 26, (256, 3))
    return np.stack([grays, middle]).astype(np.uint8).reshape(16, 32, 3)


def shown(samples: np.ndarray, corners: Corners, light: Light) -> np.ndarray:
    """What samples of 8 bits are in sRGB, as fractions, by the formulas of ICC.1 and IEC 61966."""
    linear = light(samples / 255.0) @ _to_d50(corners).T @ np.linalg.inv(_to_d50(SRGB)).T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _to_d50(corners: Corners) -> np.ndarray:
    full = [np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(corners, (4, 2))]
    rgb, white = np.stack(full[:3], axis=1), full[3]
    cones = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    ratio = (cones @ [0.9642, 1, 0.8249]) / (cones @ white)
    adapted: np.ndarray = (
        np.linalg.inv(cones) @ np.diag(ratio) @ cones @ (rgb * np.linalg.solve(rgb, white))
    )
    return adapted


def by_profile(data: bytes) -> np.ndarray:
    """What a file's samples are in sRGB by its own profile, as LittleCMS has it."""
    picture = Image.open(io.BytesIO(data))
    profile = picture.info.get("icc_profile")
    if profile is None:
        return np.asarray(picture.convert("RGB"))
    converted = ImageCms.profileToProfile(
        picture,
        io.BytesIO(profile),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
        # Without it, tables of 8 bits stand for a curve of gray.
        flags=ImageCms.Flags.NOOPTIMIZE,
    )
    return np.asarray(converted)


def chunk(kind: bytes, payload: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + payload))
    return struct.pack(">I", len(payload)) + kind + payload + checksum


def png(samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with further chunks behind its header."""
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "PNG")
    data = file.getvalue()
    return data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:]


def chrm(corners: Corners) -> tuple[bytes, bytes]:
    """The chunk of a PNG with these primaries."""
    numbers = [round(each * 100_000) for each in (*corners[6:], *corners[:6])]
    return b"cHRM", struct.pack(">8I", *numbers)


def gama(gamma: float) -> tuple[bytes, bytes]:
    """The chunk of a PNG with this exponent, from light to samples."""
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def cicp(
    primaries: int, transfer: int, matrix: int = 0, full_range: int = 1
) -> tuple[bytes, bytes]:
    """The chunk of a PNG with these code points."""
    return b"cICP", bytes([primaries, transfer, matrix, full_range])


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    """The chunk of a PNG with this profile."""
    return b"iCCP", b"icc\0\0" + zlib.compress(profile)


def tiff(samples: np.ndarray, fields: dict[int, tuple[int, tuple[int, ...]]]) -> bytes:
    """An uncompressed little-endian TIFF with further fields: tag to type and integers."""
    height, width, bands = samples.shape
    all_fields: dict[int, tuple[int, tuple[int, ...]]] = {
        256: (4, (width,)),
        257: (4, (height,)),
        258: (3, (samples.itemsize * 8,) * bands),
        259: (3, (1,)),
        262: (3, (2 if bands == 3 else 1,)),
        273: (4, (8,)),
        277: (3, (bands,)),
        278: (4, (height,)),
        279: (4, (samples.nbytes,)),
        **fields,
    }
    codes = {1: (1, "B"), 2: (1, "B"), 3: (1, "H"), 4: (1, "I"), 5: (2, "I"), 7: (1, "B")}
    start = 8 + samples.nbytes
    end = start + 2 + 12 * len(all_fields) + 4
    entries, values = b"", b""
    for tag, (kind, numbers) in sorted(all_fields.items()):
        each, code = codes[kind]
        packed = struct.pack(f"<{len(numbers)}{code}", *numbers)
        entries += struct.pack("<HHI", tag, kind, len(numbers) // each)
        if len(packed) <= 4:
            entries += packed.ljust(4, b"\0")
        else:
            entries += struct.pack("<I", end + len(values))
            values += packed
    directory = struct.pack("<H", len(all_fields)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + samples.tobytes() + directory + values
