"""Members of tars: their names and places, and what hostile archives come to."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tar_files import BLOCK, END, member, padded, tar
from tar_listings import AFTER, GOOD, contents, listed

from beam_upscale.errors import ErrorCode
from beam_upscale.sources.formats.webdataset import TarListing, read_tar
from beam_upscale.sources.locations import reading
from beam_upscale.sources.locations.file_parts import Extent, Missing
from beam_upscale.storage import files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shard.tar"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_odd_names_are_read_as_they_were_written(path: Path, form: int) -> None:
    names = ["d/" * 40 + "n" * 90 + ".png", "b.png", "ü/ä.png"]
    if form != tarfile.USTAR_FORMAT:
        names += ["n" * 400 + ".png"]
    with tarfile.open(path, "w", format=form) as archive:
        archive.pax_headers = {"comment": "of all"} if form == tarfile.PAX_FORMAT else {}
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            archive.addfile(info, io.BytesIO(name.encode()))

    found = contents(read_tar(str(path)), path)

    assert found == {name: name.encode() for name in names}


@given(
    st.lists(
        st.tuples(
            st.text("abü/. ", min_size=1, max_size=120).map(str.strip),
            st.sampled_from([".png", ".jpg", ".json", ".txt", "", ".cls"]),
            st.binary(max_size=1200),
        ),
        max_size=8,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_image_is_found_where_the_standard_library_finds_it(
    path: Path, members: list[tuple[str, str, bytes]], form: int
) -> None:
    with tarfile.open(path, "w", format=form) as archive:
        for stem, suffix, data in members:
            # The library strips slashes at a name's end.
            info = tarfile.TarInfo((stem + suffix).rstrip("/") or "x")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as archive:
        expected = {info.offset_data: (info.name, info.size) for info in archive if info.isreg()}

    listing = read_tar(str(path))

    extents = [each.part for each in listing.inputs if isinstance(each.part, Extent)]
    assert len(extents) + listing.ignored <= len(expected)
    for each in listing.inputs:
        if isinstance(each.part, Extent):
            assert expected[each.part.offset] == (each.name, each.part.size)
        else:
            # Of JSON that is none.
            assert isinstance(each.part, Missing)
            assert each.part.code is ErrorCode.INVALID_ROW


class Sought(io.BytesIO):
    """A file that knows how much of it was read."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        Sought.read_bytes += len(data)
        return data


def test_a_listing_passes_over_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar({f"{number}.png": bytes(100_000) for number in range(20)})

    def open_read(uri: str) -> BinaryIO:
        return Sought(archive)

    monkeypatch.setattr(files, "open_read", open_read)
    Sought.read_bytes = 0

    assert len(read_tar("gs://bucket/a.tar").inputs) == 20
    # Headers, and the zeros at the end.
    assert Sought.read_bytes <= 20 * BLOCK + BLOCK + tarfile.RECORDSIZE


@pytest.mark.parametrize(
    "bad",
    [
        member("bad.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("bad.png", type=tarfile.LNKTYPE, linkname="good.png"),
        member("bad.png", type=tarfile.FIFOTYPE),
        member("bad.png", type=tarfile.CHRTYPE),
        member("bad.png", b"data", type=b"M"),
        member("bad.png", b"data", pax_headers={"GNU.sparse.major": "1"}),
        member("x", b"9" * 600, type=tarfile.XHDTYPE) + member("bad.png", b"data"),
        member("x", b"30 path=bad.jpg\n", type=tarfile.XHDTYPE) + member("bad.png", b"data"),
        member("x", bytes((1 << 20) + 1), type=tarfile.XHDTYPE) + member("bad.png", b"data"),
        member("x", bytes((1 << 20) + 1), type=tarfile.GNUTYPE_LONGNAME)
        + member("bad.png", b"data"),
        member("x", b"12 size=-100\n", type=tarfile.XHDTYPE) + member("bad.png", b"data"),
    ],
    ids=[
        *(
            "symbolic link",
            "hard link",
            "pipe",
            "device",
            "volume",
            "sparse",
            "no pax",
            "wrong pax",
        ),
        *("pax bomb", "name bomb", "negative"),
    ],
)
def test_a_bad_member_is_one_row_and_costs_no_other(path: Path, bad: bytes) -> None:
    listing = listed(path, GOOD, bad, AFTER, END)

    assert contents(listing, path) == {
        "good.png": b"good",
        "bad.png": ErrorCode.INVALID_ARCHIVE,
        "later.png": b"later",
    }


def test_a_file_with_holes_is_one_row_in_the_old_form_too(path: Path) -> None:
    header = bytearray(member("bad.png", b"data", type=tarfile.GNUTYPE_SPARSE)[:BLOCK])
    header[482] = 1
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    more = bytearray(BLOCK)
    more[504] = 1

    listing = listed(path, GOOD, bytes(header), bytes(more), bytes(BLOCK), padded(b"data"), AFTER)

    assert contents(listing, path)["bad.png"] is ErrorCode.INVALID_ARCHIVE
    assert contents(listing, path)["later.png"] == b"later"


def test_a_long_chain_of_extended_headers_ends(path: Path) -> None:
    chain = member("x", b"11 size=4\n\n", type=tarfile.XHDTYPE) * 5000

    listing = listed(path, chain, AFTER, END)

    assert [each.name for each in listing.inputs] == ["later.png"]


def test_names_are_bounded_and_have_no_nul(path: Path) -> None:
    def named(name: bytes) -> bytes:
        field = b" path=" + name + b"\n"
        length = len(field) + len(str(len(field) + 5))
        return member("x", b"%d%s" % (length, field), type=tarfile.XHDTYPE) + member("x", b"data")

    long, nul = b"n" * 5000 + b".png", b"a\0b.png"
    listing = listed(path, named(long), named(nul), AFTER, END)

    assert contents(listing, path) == {
        "n" * 4092 + ".png": ErrorCode.INVALID_ARCHIVE,
        "a_b.png": ErrorCode.INVALID_ARCHIVE,
        "later.png": b"later",
    }


@given(st.integers(0, 5 * BLOCK))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_archive_that_is_cut_off_keeps_what_came_before(path: Path, length: int) -> None:
    whole = GOOD + member("cut.png", b"c" * 600) + END

    found = contents(listed(path, whole[:length]), path)

    damage = ErrorCode.INVALID_ARCHIVE
    if length < BLOCK:
        assert found == {"": damage}
    elif length < 516:
        assert found == {"good.png": damage}
    elif length < 1536:
        # The last block of a member may lack what only fills it.
        assert found == {"good.png": b"good", "": damage}
    elif length < 1536 + 600:
        assert found == {"good.png": b"good", "cut.png": damage}
    elif length <= 1536 + 1024:
        assert found == {"good.png": b"good", "cut.png": b"c" * 600, "": damage}
    else:
        # Whoever finds a part of the end finds an end.
        assert found == {"good.png": b"good", "cut.png": b"c" * 600}


def messages(listing: TarListing) -> list[str]:
    return [each.part.message for each in listing.inputs if isinstance(each.part, Missing)]


@pytest.mark.parametrize(
    ("parts", "found", "message"),
    [
        ([], {}, "from byte 0 on it cannot be read: the archive is cut off there"),
        (
            [GOOD, AFTER],
            {"good.png": b"good", "later.png": b"later"},
            "from byte 2,048 on it cannot be read: the archive is cut off there, or its writer",
        ),
        (
            [GOOD, END, padded(b"no header"), AFTER, END],
            {"good.png": b"good"},
            "from byte 2,048 on it cannot be read: no header of a tar is there",
        ),
        (
            # As where a part of a download has not come.
            [GOOD, bytes(3 << 20), b"x" * 700, AFTER, END],
            {"good.png": b"good"},
            f"from byte {1024 + (3 << 20):,} on it cannot be read",
        ),
        (
            [gzip.compress(GOOD + END)[:40]],
            {},
            "it cannot be read: the archive is compressed (gzip)",
        ),
    ],
)
def test_an_archive_that_is_not_whole_has_a_row_that_says_so(
    path: Path, parts: list[bytes], found: dict[str, bytes], message: str
) -> None:
    listing = listed(path, *parts)

    assert contents(listing, path) == {**found, "": ErrorCode.INVALID_ARCHIVE}
    assert len(messages(listing)) == 1 and message in messages(listing)[0]


@pytest.mark.parametrize("end", [END, bytes(BLOCK), bytes(20 * BLOCK), bytes(BLOCK - 1)])
def test_any_zeros_end_an_archive(path: Path, end: bytes) -> None:
    assert contents(listed(path, GOOD, end), path) == {"good.png": b"good"}
    assert contents(listed(path, end * 2), path) == {}


def test_of_two_archives_in_one_file_both_are_read(path: Path) -> None:
    first, second = tar({"a.png": b"1", "a.json": b"{}"}), tar({"a.png": b"2", "b.png": b"3"})

    listing = listed(path, first, second)

    assert [each.name for each in listing.inputs] == ["a.png", "a.png", "b.png"]
    parts = [each.part for each in listing.inputs if each.part is not None]
    assert [reading.read(str(path), part, 10) for part in parts] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("noise", [b"\xff" * BLOCK, b"PK\x03\x04" * 200, b"\x1f\x8b" * 300])
def test_what_is_no_tar_is_one_row(path: Path, noise: bytes) -> None:
    assert contents(listed(path, noise), path) == {"": ErrorCode.INVALID_ARCHIVE}
    found = contents(listed(path, GOOD, noise, AFTER), path)
    assert found == {"good.png": b"good", "": ErrorCode.INVALID_ARCHIVE}


@given(st.binary(min_size=1, max_size=3000), st.integers(0, 3 * BLOCK))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_rows_and_never_a_crash(path: Path, noise: bytes, position: int) -> None:
    whole = bytearray(GOOD + member("a.json", b'{"a": 1}') + AFTER + END)
    whole[position : position + len(noise)] = noise

    listing = listed(path, bytes(whole))

    assert len(listing.inputs) <= len(whole) // BLOCK + 1
