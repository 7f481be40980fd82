"""Small image files, and blocks of EXIF written by hand."""

import io
import struct

from PIL import Image


def saved(format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(buffer, format_, **options)
    return buffer.getvalue()


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\x00" if order == "<" else b"MM\x00*"
    entry = struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    return mark + struct.pack(order + "IH", 8, 1) + entry + bytes(4) + b"kept"
