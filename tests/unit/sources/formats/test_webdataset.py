"""Tars: what their members are, and what hostile ones come to."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_filesystem import MemoryFileSystem
from tar_files import BLOCK, END, member, padded, tar, write_tar

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.formats.webdataset import TarListing, read_tar
from beam_upscale.sources.inputs.found_inputs import Listing
from beam_upscale.sources.locations import reading
from beam_upscale.sources.locations.file_parts import Extent, Missing
from beam_upscale.storage import files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shard.tar"


def listed(path: Path, *parts: bytes) -> TarListing:
    """What is found in an archive of these bytes."""
    path.write_bytes(b"".join(parts))
    return read_tar(str(path))


def contents(listing: TarListing, path: Path) -> dict[str, bytes | ErrorCode]:
    """Each input's bytes, or the code of the error that reading them is."""
    found: dict[str, bytes | ErrorCode] = {}
    for each in listing.inputs:
        assert each.name not in found
        try:
            found[each.name] = reading.read(str(path), each.part, max_bytes=10**6)
        except ImageError as error:
            assert str(path) in error.message
            found[each.name] = error.code
    return found


# What members are


def test_members_of_one_key_are_one_input(path: Path) -> None:
    write_tar(
        path,
        {
            "a/1.jpg": b"first",
            "a/1.json": json.dumps({"label": 7, "prompt": "a cat"}).encode(),
            "a/1.txt": b"a caption",
            "a/1.cls": b"7",
            "2.caption": b"alone",
            "3.caption": b"three",
            "3.png": b"third",
            "README": b"none",
        },
    )

    listing = read_tar(str(path))
    one, three = listing.inputs

    assert contents(listing, path) == {"a/1.jpg": b"first", "3.png": b"third"}
    assert one.columns == {"label": 7, "prompt": "a cat"}
    assert one.caption is not None
    assert reading.read(str(path), one.caption, 100) == b"a caption"
    assert three.caption is not None
    assert reading.read(str(path), three.caption, 100) == b"three"
    assert listing.ignored == 3


@pytest.mark.parametrize(
    ("names", "image"),
    [
        (["k.png", "k.jpg"], "k.jpg"),
        (["k.webp", "k.png"], "k.png"),
        (["k.mask.jpg", "k.png"], "k.png"),
        (["k.mask.png", "k.depth.jpg"], "k.depth.jpg"),
        (["k.gif", "k.JPEG"], "k.JPEG"),
        (["./k.npy", "./k.png"], "./k.png"),
    ],
)
def test_of_several_images_the_first_by_their_endings_is_taken(
    path: Path, names: list[str], image: str
) -> None:
    for order in (names, names[::-1]):
        listing = listed(path, tar([(name, name.encode()) for name in order]))

        assert contents(listing, path) == {image: image.encode()}
        assert listing.ignored == 1


def test_members_of_a_key_need_not_be_neighbors(path: Path) -> None:
    listing = listed(path, tar([("1.jpg", b"one"), ("2.jpg", b"two"), ("1.json", b'{"n": 1}')]))

    assert [each.columns for each in listing.inputs] == [{"n": 1}, {}]


def test_keys_that_come_again_are_inputs_of_their_own(path: Path) -> None:
    pairs = [("1.jpg", b"one"), ("1.json", b'{"n": 1}')]
    again = [("1.jpg", b"two"), ("1.json", b'{"n": 2}')]

    listing = listed(path, tar([*pairs, *again, ("1.jpg", b"three")]))

    assert [each.columns for each in listing.inputs] == [{"n": 1}, {"n": 2}, {}]
    read = [reading.read(str(path), each.part, 10) for each in listing.inputs]
    assert read == [b"one", b"two", b"three"]


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


# What becomes of bad ones


GOOD = member("good.png", b"good")
AFTER = member("later.png", b"later")


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


def test_what_is_cut_off_with_what_guides_an_image_costs_that_image(path: Path) -> None:
    listing = listed(path, GOOD, member("good.json", b'{"a": 1}' + b" " * 2000)[:1500])

    assert contents(listing, path) == {"good.png": ErrorCode.INVALID_ROW}


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


@pytest.mark.parametrize(
    "columns",
    [b"", b"[1]", b"{", b"\xff", b'{"a": "\\ud800"}', b'{"a": ' * 3000, b" " * 1_100_000],
)
def test_an_image_whose_columns_cannot_be_read_is_one_row(path: Path, columns: bytes) -> None:
    listing = listed(path, tar({"a.json": columns, "a.png": b"data", "b.png": b"other"}))

    assert contents(listing, path) == {"a.png": ErrorCode.INVALID_ROW, "b.png": b"other"}


def test_a_tar_that_cannot_be_read_is_one_row(tmp_path: Path) -> None:
    (only,) = read_tar(str(tmp_path / "none.tar")).inputs

    assert isinstance(only.part, Missing)
    assert only.part.code is ErrorCode.NOT_FOUND


# In a listing


def ids(listing: Listing, root: str) -> list[str]:
    return [image.input_id.removeprefix(root) for image in listing.images]


def test_inputs_are_known_by_tar_and_member(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/b.tar", {"1.jpg": b"b1", "1.txt": b"caption"})
    write_tar(tmp_path / "in/a.tar", {"2.jpg": b"a2", "1.jpg": b"a1"})
    (tmp_path / "in/README.md").write_text("none")

    globbed = list_images(f"{tmp_path}/in/*.tar")
    folder = list_images(f"{tmp_path}/in", input_format="webdataset")

    assert ids(globbed, str(tmp_path)) == ["/in/a.tar#1.jpg", "/in/a.tar#2.jpg", "/in/b.tar#1.jpg"]
    assert [image.output_name for image in globbed.images] == ["a/1", "a/2", "b/1"]
    assert [image.read(10) for image in globbed.images] == [b"a1", b"a2", b"b1"]
    assert list(globbed.images)[2].caption_uri == f"{tmp_path}/in/b.tar"
    assert list(folder.images) == list(globbed.images)
    assert (folder.ignored, globbed.ignored) == (1, 0)


def test_names_that_would_leave_the_output_or_meet_do_not(path: Path) -> None:
    names = [
        *("/etc/passwd.png", "../../up.png", "a/../../up.jpg", "A.png", "a.jpg", "a.png", "a.png"),
        *("b.png/c.png", "b.jpg", "..png", "dir/./x.png", "\udcff.png", "%FF.png"),
    ]
    listed(path, *(member(name, name.encode("utf-8", "surrogateescape")) for name in names), END)

    images = tuple(list_images(str(path)).images)

    outputs = [image.output_name.casefold() for image in images]
    # "..png" is hidden, and the first "a.png" has the key of "a.jpg".
    assert len(images) == len(names) - 2
    assert len({image.input_id for image in images}) == len(images)
    assert len(set(outputs)) == len(outputs)
    for name in outputs:
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert "\0" not in name


def test_a_tar_on_another_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar({"1.png": b"one", "1.json": b'{"n": 1}'})
    monkeypatch.setattr(MemoryFileSystem, "files", {"mem://bucket/a.tar": archive})

    (image,) = list_images("mem://bucket/*.tar").images

    assert image.input_id == "mem://bucket/a.tar#1.png"
    assert image.read(10) == b"one"
    assert image.columns == {"file_name": "1.png", "n": 1}
