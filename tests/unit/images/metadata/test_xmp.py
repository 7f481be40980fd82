"""XMP packets of sources, as they are in results."""

import re

import pytest

from beam_upscale.images.metadata import xmp

HEAD = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
RDF = b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
TIFF = b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
EXIF = b'xmlns:exif="http://ns.adobe.com/exif/1.0/"'


def packet(attributes: bytes = b"", elements: bytes = b"") -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF ' + RDF + b"><rdf:Description "
        b'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="kept" '
        + attributes
        + b">"
        + elements
        + b"</rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def result(data: bytes, *, is_turned: bool = True) -> bytes:
    upright, notes = xmp.of_result(data, is_turned=is_turned)
    assert (upright is not None, notes) == (True, ())
    assert upright is not None
    return xmp.with_size(upright, 640, 480)


def test_a_packet_without_pixels_stays_as_it_is() -> None:
    assert result(packet()) == packet()


@pytest.mark.parametrize("quote", [b'"', b"'"])
def test_orientation_and_sizes_as_attributes(quote: bytes) -> None:
    def numbers(orientation: int, width: int, height: int, quote: bytes) -> bytes:
        values = {
            b"tiff:Orientation": orientation,
            b"tiff:ImageWidth": width,
            b"tiff:ImageLength": height,
            b"exif:PixelXDimension": width,
            b"exif:PixelYDimension": height,
        }
        parts = [name + b"=" + quote + b"%d" % each + quote for name, each in values.items()]
        return b" ".join((TIFF, EXIF, *parts))

    assert result(packet(numbers(6, 48, 32, quote))) == packet(numbers(1, 640, 480, b'"'))


def test_orientation_and_sizes_as_elements_by_any_prefix() -> None:
    def elements(orientation: bytes, width: bytes) -> bytes:
        return (
            b'<a:Orientation xmlns:a="http://ns.adobe.com/tiff/1.0/">'
            + orientation
            + b"</a:Orientation>"
            b'<b:PixelXDimension xmlns:b="http://ns.adobe.com/exif/1.0/" >'
            + width
            + b"</b:PixelXDimension>"
            b'<tiff:Orientation xmlns:tiff="http://example.org/">8</tiff:Orientation>'
        )

    assert result(packet(b"", elements(b"6", b"48"))) == packet(b"", elements(b"1", b"640"))


def test_what_describes_the_sources_file_goes() -> None:
    gone = (
        TIFF
        + b' tiff:BitsPerSample="8" xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="A"',
        b'<tiff:Compression>6</tiff:Compression><xmp:Thumbnails xmlns:xmp="http://ns.adobe.com/xap/1.0/">'
        b"<rdf:Alt><rdf:li>/9j/</rdf:li></rdf:Alt></xmp:Thumbnails><tiff:BitsPerSample/>",
    )

    left = result(packet(*gone))

    assert left == packet(TIFF + b' xmlns:n="http://ns.adobe.com/xmp/note/"')


def test_regions_go_where_pixels_were_turned() -> None:
    regions = (
        b'<m:Regions xmlns:m="http://www.metadataworkinggroup.com/schemas/regions/"'
        b' rdf:parseType="Resource"><m:RegionList/></m:Regions>'
    )

    assert result(packet(b"", regions), is_turned=False) == packet(b"", regions)
    assert xmp.of_result(packet(b"", regions), is_turned=True) == (
        packet(),
        ("image regions dropped",),
    )


@pytest.mark.parametrize(
    ("attribute", "note"),
    [
        (b'xmlns:h="http://ns.adobe.com/hdr-gain-map/1.0/" h:Version="1.0"', "gain map dropped"),
        (b'xmlns:h="http://ns.apple.com/HDRGainMap/1.0/" h:Version="1"', "gain map dropped"),
        (b'xmlns:g="http://ns.google.com/photos/1.0/depthmap/" g:Near="1"', "depth map dropped"),
        (b'xmlns:g="http://ns.google.com/photos/1.0/audio/" g:Mime="audio/mp4"', "audio dropped"),
        (b'xmlns:g="http://ns.google.com/photos/1.0/camera/" g:MotionPhoto="1"', "video dropped"),
    ],
)
def test_what_is_left_behind_is_noted_and_not_spoken_of(attribute: bytes, note: str) -> None:
    upright, notes = xmp.of_result(packet(attribute), is_turned=False)

    assert notes == (note,)
    assert upright == packet(re.sub(rb" \w:\w+=.*", b"", attribute))


def test_room_for_changes_is_not_kept() -> None:
    padded = HEAD + packet() + b"\n" + b" " * 3000 + b'<?xpacket end="w"?>'

    assert result(padded) == HEAD + packet() + b'\n<?xpacket end="w"?>'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no XML",
        b"<a>",
        packet()[:-5],
        b'<!DOCTYPE a [<!ENTITY b "ccc">]><a>&b;</a>',
        "<a/>".encode("utf-16"),
        b"<a>\xff</a>",
        b"<a>" * 300 + b"</a>" * 300,
    ],
)
def test_what_is_no_packet_is_dropped(data: bytes) -> None:
    assert xmp.of_result(data, is_turned=True) == (None, ("unreadable XMP dropped",))


def test_a_huge_packet_is_dropped() -> None:
    assert xmp.of_result(packet(b"", b" " * (1 << 20)), is_turned=True) == (
        None,
        ("XMP of more than 1 MiB dropped",),
    )
