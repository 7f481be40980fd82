"""What stands beside pixels: carried over to every format, or noted."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
from described_colors import chunk, png, sound_profile, swatches, tiff
from PIL import Image

from beam_upscale.images.reading import pixels
from beam_upscale.images.values import DecodedImage, Metadata, Resolution
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.planning.plan_options import MetadataRule, OutputFormat

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:PixelXDimension="32"/></rdf:RDF></x:xmpmeta>'
)


def saved(format_: str, samples: np.ndarray | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(swatches() if samples is None else samples).save(file, format_, **options)
    return file.getvalue()


def decode(data: bytes) -> DecodedImage:
    return pixels.decode(data, max_pixels=100_000)


def with_segment(marker: int, content: bytes, data: bytes | None = None) -> bytes:
    data = data or saved("JPEG")
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


def exif() -> bytes:
    fields = Image.Exif()
    fields[271] = "Maker"
    return fields.tobytes().removeprefix(b"Exif\0\0")


def raw_profile(kind: str, content: bytes) -> tuple[bytes, bytes]:
    """A chunk as ImageMagick writes it."""
    digits = content.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = f"\n{kind}\n{len(content):8}\n{lines}\n".encode()
    return b"zTXt", f"Raw profile type {kind}\0\0".encode() + zlib.compress(text)


def heic() -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(swatches())).save(file, quality=-1, xmp=XMP)
    return file.getvalue()


WITH_XMP = {
    "jpeg": saved("JPEG", xmp=XMP),
    "png": png(swatches(), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "packed png": png(swatches(), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
    "old png": png(swatches(), raw_profile("xmp", XMP)),
    "webp": saved("WEBP", xmp=XMP),
    "tiff": tiff(swatches(), {700: (1, tuple(XMP))}),
    "avif": saved("AVIF", xmp=XMP),
    "heic": heic(),
}


@pytest.mark.parametrize("name", WITH_XMP)
def test_xmp_from_every_format_to_every_other(name: str) -> None:
    decoded = decode(WITH_XMP[name])

    assert (decoded.metadata.xmp, decoded.notes) == (XMP, ())
    for output in OutputFormat:
        encoded = encoding.encode(
            decoded.color.repeat(2, axis=1),
            metadata=decoded.metadata,
            options=EncodeOptions(output),
        )
        assert encoded.notes == ()
        assert Image.open(io.BytesIO(encoded.data)).info["xmp"] == XMP.replace(b'"32"', b'"64"')


@pytest.mark.parametrize("data", [b"no XML", b"<a>", b"\0" * 40])
def test_unreadable_xmp_is_dropped(data: bytes) -> None:
    for file in (saved("JPEG", xmp=data), saved("WEBP", xmp=data)):
        assert decode(file).notes == ("unreadable XMP dropped",)


def test_xmp_too_long_for_jpeg() -> None:
    long = XMP.replace(b"<rdf:RDF", b"<!--" + b"-x" * 33_000 + b" --><rdf:RDF")
    decoded = decode(png(swatches(), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + long)))

    as_jpeg = encoding.encode(
        decoded.color, metadata=decoded.metadata, options=EncodeOptions(OutputFormat.JPEG)
    )

    assert as_jpeg.notes == ("XMP too long for JPEG dropped",)
    assert "xmp" not in Image.open(io.BytesIO(as_jpeg.data)).info
    assert encoding.encode(decoded.color, metadata=decoded.metadata).notes == ()


def test_xmp_packed_without_end_is_dropped() -> None:
    bomb = zlib.compress(bytes(100 << 20))

    decoded = decode(png(swatches(), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb)))

    assert decoded.notes == ("unreadable XMP dropped",)


def test_old_exif_of_png() -> None:
    prefixed = b"Exif\0\0" + exif()

    for kind, content in (("exif", prefixed), ("APP1", prefixed), ("exif", exif())):
        decoded = decode(png(swatches(), raw_profile(kind, content)))
        assert (decoded.metadata.exif, decoded.notes) == (exif(), ())
    broken = b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 9\nxyz\n")
    assert decode(png(swatches(), broken)).notes == ("unreadable EXIF dropped",)
    assert decode(png(swatches(), raw_profile("iptc", b"8BIM"))).notes == ("IPTC dropped",)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved("JPEG", dpi=(300, 150)), Resolution(300, 150)),
        (saved("PNG", dpi=(300, 150)), Resolution(299.9994, 150.0124)),
        (saved("BMP", dpi=(300, 150)), Resolution(300, 150)),
        (saved("JPEG"), None),
        (saved("PNG"), None),
        (png(swatches(), (b"pHYs", bytes(9))), None),
        (png(swatches(), (b"pHYs", struct.pack(">IIB", 2, 1, 0))), Resolution(2, 1, True)),
        (png(swatches(), (b"pHYs", b"\0" * 4)), None),
    ],
)
def test_resolution_of_a_file(data: bytes, expected: Resolution | None) -> None:
    found = decode(data).metadata.resolution

    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found.x, found.y) == pytest.approx((expected.x, expected.y), rel=1e-4)
        assert found.is_ratio is expected.is_ratio


def test_resolution_in_every_format() -> None:
    decoded = decode(saved("JPEG", dpi=(300, 150)))

    for output in OutputFormat:
        encoded = encoding.encode(
            decoded.color, metadata=decoded.metadata, options=EncodeOptions(output)
        )
        picture = Image.open(io.BytesIO(encoded.data))
        fields = picture.getexif()
        told = (fields[282], fields[283]) if output is OutputFormat.WEBP else picture.info["dpi"]
        assert told == pytest.approx((300, 150), rel=1e-4)
        assert encoded.notes == ()


def test_resolution_of_webp_that_has_exif_without_one() -> None:
    metadata = Metadata(exif=exif(), resolution=Resolution(300, 300))
    options = EncodeOptions(OutputFormat.WEBP)

    encoded = encoding.encode(swatches(), metadata=metadata, options=options)

    assert encoded.notes == ("resolution not kept in WebP",)


def test_resolution_that_a_format_has_no_room_for() -> None:
    color = np.zeros((4, 4, 3), np.uint8)
    for resolution in (Resolution(1e6, 1e6), Resolution(0.1, 300), Resolution(1, 90_000, True)):
        encoded = encoding.encode(
            color,
            metadata=Metadata(resolution=resolution),
            options=EncodeOptions(OutputFormat.JPEG),
        )
        assert encoded.notes == ("resolution not kept in JPEG",)
    for resolution in (Resolution(1e12, 1e12), Resolution(1e-9, 3)):
        for output in (OutputFormat.PNG, OutputFormat.TIFF):
            options = EncodeOptions(output)
            encoding.encode(color, metadata=Metadata(resolution=resolution), options=options)


def test_sides_of_a_pixel_in_jpeg_and_png() -> None:
    color = np.zeros((4, 4, 3), np.uint8)
    metadata = Metadata(resolution=Resolution(2, 1, True))

    jpeg = encoding.encode(color, metadata=metadata, options=EncodeOptions(OutputFormat.JPEG)).data

    for data in (jpeg, encoding.encode(color, metadata=metadata).data):
        assert decode(data).metadata.resolution == Resolution(2, 1, True)


def test_resolution_of_exif_in_a_tiff() -> None:
    fields = Image.Exif()
    fields[0x011A], fields[0x011B], fields[0x0128] = 200, 100, 2
    metadata = Metadata(exif=fields.tobytes().removeprefix(b"Exif\0\0"))

    data = encoding.encode(
        swatches(), metadata=metadata, options=EncodeOptions(OutputFormat.TIFF)
    ).data

    assert Image.open(io.BytesIO(data)).info["dpi"] == (200, 100)


def two_pictures() -> bytes:
    second = Image.fromarray(swatches()[::-1].copy())
    return saved("MPO", save_all=True, append_images=[second])


LEFT = {
    "two pictures": (two_pictures(), "first of 2 pictures"),
    "comment": (saved("JPEG", comment=b"hello"), "comment dropped"),
    "IPTC": (with_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04" + bytes(6)), "IPTC dropped"),
    "paths": (with_segment(0xED, b"Photoshop 3.0\x008BIM\x07\xd0"), "Photoshop data dropped"),
    "credentials": (with_segment(0xEB, b"JP" + bytes(20) + b"c2pa"), "content credentials dropped"),
    "a maker's": (with_segment(0xE5, b"SEFT"), "other metadata dropped"),
    "gain map": (with_segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0"), "gain map dropped"),
    "extended XMP": (
        with_segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)),
        "extended XMP dropped",
    ),
    "sound behind it": (saved("JPEG") + b"RIFF" + bytes(50), "data after the image dropped"),
    "video behind it": (saved("JPEG") + b"\0\0\0\x18ftypmp42" + bytes(50), "video dropped"),
    "sound behind a png": (saved("PNG") + b"RIFF" + bytes(50), "data after the image dropped"),
    "sound behind a webp": (saved("WEBP") + b"RIFF" + bytes(50), "data after the image dropped"),
    "video of an avif": (saved("AVIF") + b"\0\0\0\x0cmpvdabcd", "video dropped"),
    "text": (png(swatches(), (b"tEXt", b"parameters\0a cat")), "text dropped"),
    "packed text": (png(swatches(), (b"zTXt", b"a\0\0junk")), "text dropped"),
    "other chunk": (png(swatches(), (b"vpAg", bytes(9))), "other metadata dropped"),
    "credentials of png": (png(swatches(), (b"caBX", b"c2pa")), "content credentials dropped"),
    "IPTC of tiff": (tiff(swatches(), {33_723: (7, (1,) * 9)}), "IPTC dropped"),
    "Photoshop of tiff": (tiff(swatches(), {34_377: (7, (1,) * 9)}), "Photoshop data dropped"),
    "map": (tiff(swatches(), {33_550: (3, (1,) * 9)}), "georeference dropped"),
    "own fields": (tiff(swatches(), {65_000: (3, (1,))}), "other metadata dropped"),
    "gif comment": (saved("GIF", comment=b"hello"), "comment dropped"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_behind_is_noted(name: str) -> None:
    data, note = LEFT[name]

    notes = decode(data).notes

    assert [each for each in notes if each != "palette expanded"] == [note]


@pytest.mark.parametrize(
    "data",
    [
        saved("JPEG") + bytes(30) + b"\r\n",
        saved("PNG") + bytes(30) + b"\r\n",
        saved("WEBP") + bytes(30) + b"\r\n",
        png(swatches(), (b"tIME", bytes(7)), (b"sBIT", b"\x08\x08\x08"), (b"bKGD", bytes(6))),
        with_segment(0xEC, b"Ducky\0\1\0\4"),
        with_segment(0xE0, b"JFXX\0\x13" + bytes(3)),
        saved("TIFF", description="a cat", software="hand"),
        saved("WEBP"),
        saved("AVIF"),
    ],
)
def test_what_says_nothing_of_the_picture_is_not_noted(data: bytes) -> None:
    assert decode(data).notes == ()


def webp_with_chunk() -> bytes:
    data = bytearray(saved("WEBP", xmp=XMP)) + b"SOND" + struct.pack("<I", 4) + b"abcd"
    struct.pack_into("<I", data, 4, len(data) - 8)
    return bytes(data)


def test_other_chunks_of_webp() -> None:
    assert decode(webp_with_chunk()).notes == ("other metadata dropped",)


def iso_with(box: bytes, format_: str = "AVIF") -> bytes:
    """An AVIF whose meta box ends with another one."""
    data = saved(format_)
    at = data.index(b"meta") - 4
    (size,) = struct.unpack_from(">I", data, at)
    file, moved = bytearray(data[: at + size] + box + data[at + size :]), len(box)
    struct.pack_into(">I", file, at, size + moved)
    place = data.index(b"iloc") + 4
    # One item with one extent, of offsets of 4 bytes: all move by the box.
    offset = data.index(struct.pack(">I", data.index(b"mdat") + 4), place)
    struct.pack_into(">I", file, offset, data.index(b"mdat") + 4 + moved)
    return bytes(file)


def test_gain_and_depth_maps_of_avif() -> None:
    def free(content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), b"free") + content

    assert decode(iso_with(free(b"nothing"))).notes == ()
    assert decode(iso_with(free(b"tmap"))).notes == ("gain map dropped",)
    depth = b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth\0"
    assert decode(iso_with(free(depth))).notes == ("depth map dropped",)


SOUND = sound_profile()


def gif_with(*extensions: bytes) -> bytes:
    data = saved("GIF")
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:start] + b"".join(extensions) + data[start:]


def blocks(content: bytes) -> bytes:
    parts = [content[at : at + 255] for at in range(0, len(content), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def test_extensions_of_gif() -> None:
    ramp = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    decoded = decode(
        gif_with(b"!\xff\x0bICCRGBG1012" + blocks(SOUND), b"!\xff\x0bXMP DataXMP" + XMP + ramp)
    )

    assert decoded.metadata.icc_profile == SOUND
    assert decoded.metadata.xmp == XMP
    assert decoded.notes == ("palette expanded",)


@pytest.mark.parametrize("output", OutputFormat)
def test_stripped_of_all_but_colors(output: OutputFormat) -> None:
    data = saved("JPEG", xmp=XMP, exif=b"Exif\0\0" + exif(), dpi=(300, 300), icc_profile=SOUND)
    decoded = decode(data)
    options = EncodeOptions(output, metadata=MetadataRule.STRIP)

    encoded = encoding.encode(decoded.color, metadata=decoded.metadata, options=options)

    kept = decode(encoded.data).metadata
    assert (kept.icc_profile, kept.xmp, kept.resolution) == (SOUND, None, None)
    # A TIFF has a resolution in any case.
    assert kept.exif is None or output is OutputFormat.TIFF
    assert b"Maker" not in encoded.data
    bare = encoding.encode(decoded.color, metadata=Metadata(SOUND), options=options)
    assert (bare.data, encoded.notes) == (encoded.data, ())


def test_chunks_are_read_wherever_they_stand() -> None:
    whole = saved("PNG")
    behind = whole[:-12] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + whole[-12:]

    assert decode(behind).metadata.xmp == XMP
