"""Tables: their rows as inputs, what they name, and what becomes of rows that name nothing."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_filesystem import MemoryFileSystem
from written_tables import FORMS, problems, problems_of, refused, write

from beam_upscale.dataset.names import mark
from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.sources.discovery import list_images, no_input
from beam_upscale.sources.inputs.source_image import source_image
from beam_upscale.sources.locations.file_parts import Missing

# Formats


def test_a_folder_is_one_of_images_unless_it_is_said(tmp_path: Path) -> None:
    write(tmp_path / "in/metadata.jsonl", [{"file_name": "a.png", "label": 1}])
    write(tmp_path / "in/b.jsonl", [{"url": "b.png"}])
    (tmp_path / "in/a.png").write_bytes(b"a")

    (found,) = list_images(str(tmp_path / "in")).images
    rows = list_images(str(tmp_path / "in"), input_format="jsonl")

    assert found.columns == {"file_name": "a.png", "label": 1}
    assert [image.uri for image in rows.images] == [f"{tmp_path}/in/{n}.png" for n in "ba"]
    assert rows.ignored == 1


def test_a_named_file_is_read_as_it_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"url": "a.png"}]).rename(tmp_path / "part-0000")

    (image,) = list_images(str(path), input_format="jsonl").images
    (itself,) = list_images(str(path)).images

    assert image.uri == f"{tmp_path}/a.png"
    assert itself.uri == str(path)


# Rows


@pytest.mark.parametrize("name", FORMS)
def test_a_row_is_an_input(tmp_path: Path, name: str) -> None:
    rows = [
        {"image_url": "a.png", "label": "first"},
        {"image_url": "sub/b.png", "label": "second"},
        {"image_url": "a.png", "label": "again"},
        {"image_url": "/in/c.png", "label": "third"},
        {"image_url": "https://host.example/d.jpg?x=1", "label": "fourth"},
        {"image_url": "s3://bucket/e.png", "label": "fifth"},
    ]
    path = write(tmp_path / name, rows)

    found = tuple(list_images(str(path)).images)

    assert [image.input_id for image in found] == [f"{path}#{n:012}" for n in range(6)]
    assert [image.uri for image in found] == [
        f"{tmp_path}/a.png",
        f"{tmp_path}/sub/b.png",
        f"{tmp_path}/a.png",
        "/in/c.png",
        "https://host.example/d.jpg?x=1",
        "s3://bucket/e.png",
    ]
    assert [image.source_uri for image in found] == [image.uri for image in found]
    assert [dict(image.columns) for image in found] == rows
    assert [image.output_name for image in found] == [
        "a.png",
        "sub/b",
        f"a.png-{mark(found[2].input_id)}",
        "in/c",
        "host.example/d",
        "bucket/e",
    ]


def test_ids_stay_and_sort_as_rows_do_while_a_table_grows(tmp_path: Path) -> None:
    rows = [{"url": f"{number}.png"} for number in range(1100)]
    path = write(tmp_path / "rows.jsonl", rows[:9])
    before = [image.input_id for image in list_images(str(path)).images]

    after = list(list_images(str(write(path, rows))).images)

    assert [image.input_id for image in after[:9]] == before
    assert [image.uri for image in after] == [f"{tmp_path}/{row['url']}" for row in rows]


@pytest.mark.parametrize("name", FORMS)
def test_a_row_without_an_image_is_an_input_all_the_same(tmp_path: Path, name: str) -> None:
    rows = [{"url": "a.png", "n": "0"}, {"url": None, "n": "1"}, {"url": "", "n": "2"}]
    path = write(tmp_path / name, rows)

    listing = list_images(str(path))

    assert len(listing.images) == 3
    assert all("url has no value" in problem for problem in problems(listing)[1:])
    for image in list(listing.images)[1:]:
        with pytest.raises(ImageError) as caught:
            image.read(10)
        assert caught.value.code is ErrorCode.INVALID_ROW
        assert str(path) in caught.value.message
        assert image.source_uri == str(path)
        assert image.columns["n"] in ("1", "2")


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_long_and_odd_cells_are_read_whole(tmp_path: Path, name: str) -> None:
    rows = [
        {"url": "a.png", "text": "z" * 300_000},
        {"url": "b.png", "text": "a\0b"},
        {"url": "c.png", "text": "9" * 10_000},
    ]
    path = write(tmp_path / name, rows)

    found = list_images(str(path)).images

    assert [image.columns for image in found] == rows


@pytest.mark.parametrize("asked", [None, "x"])
def test_columns_are_named_in_one_line(asked: str | None, tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text('"i\n\nmage\x1b[1m"\n"a.png"\n')

    error = refused(tmp_path / "rows.tsv", image_column=asked)

    assert r"there are: i\n\nmage\x1b[1m" in error.message
    assert error.message.isprintable()


# Columns


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (["id", "url", "image"], "image"),
        (["path", "URL", "TEXT"], "URL"),
        (["file_name", "label"], "file_name"),
        (["Image_URL", "path"], "Image_URL"),
    ],
)
@pytest.mark.parametrize("name", FORMS)
def test_the_column_with_images_has_a_usual_name(
    tmp_path: Path, name: str, columns: list[str], chosen: str
) -> None:
    path = write(tmp_path / name, [{column: f"{column}.png" for column in columns}])

    (image,) = list_images(str(path)).images
    (other,) = list_images(str(path), image_column=columns[0]).images

    assert image.uri == f"{tmp_path}/{chosen}.png"
    assert other.uri == f"{tmp_path}/{columns[0]}.png"


@pytest.mark.parametrize("name", FORMS)
def test_where_no_column_fits_those_that_there_are_are_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"picture": "a.png", "label": "x"}])

    for options in ({}, {"image_column": "url"}):
        error = refused(path, **options)
        assert error.code is ErrorCode.INVALID_OPTION
        assert "picture" in error.message
        assert "label" in error.message


def test_a_column_that_cannot_hold_images_is_not_one(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", [{"image": 7, "path": "a.png"}])

    (image,) = list_images(str(path)).images

    assert image.uri == f"{tmp_path}/a.png"
    assert "image (int64)" in refused(path, image_column="image").message


def test_a_column_for_what_has_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")

    error = refused(tmp_path, image_column="url")

    assert error.code is ErrorCode.INVALID_OPTION
    assert "--input-format" in error.message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"url,url\na,b\n", "two columns are called url"),
        ("a.csv", b"url\n\xff\n", "not UTF-8"),
        ("a.csv", b'url\n"a\n', "line 2"),
        ("a.parquet", b"PAR1 not", "not a Parquet file"),
        ("a.parquet", b"", "not a Parquet file"),
        ("a.parquet", b"PAR1" + b"\xff" * 20 + b"\x14\0\0\0PAR1", "not a Parquet file"),
    ],
)
def test_a_table_that_cannot_be_read_stops_the_run(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)

    error = refused(tmp_path / name)

    assert error.code is ErrorCode.INVALID_TABLE
    assert words in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", ""), ("a.csv", ""), ("a.csv", "url,x\n")])
def test_a_table_without_rows_has_no_inputs(tmp_path: Path, name: str, text: str) -> None:
    path = str(tmp_path / name)
    (tmp_path / name).write_text(text)

    listing = list_images(path)

    assert len(listing.images) == 0
    assert no_input(path, listing).message == f"{path} is a table without rows"


def test_blanks_around_a_path_are_passed_over_where_no_file_is_called_so(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", " b.png "):
        (tmp_path / name).write_bytes(name.encode())
    names = [" a.png\n", " b.png ", "b.png ", f" {tmp_path}/a.png", " gone.png", "  "]
    table = write(tmp_path / "rows.jsonl", [{"path": name} for name in names])

    images = list_images(str(table)).images

    found = [str(image.uri).removeprefix(f"{tmp_path}/") for image in images]
    assert found == ["a.png", " b.png ", "b.png", "a.png", " gone.png", "  "]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("ftp://h/a.png", "ftp: is not a scheme"),
        (" IPFS://bafy/a.png", "ipfs: is not a scheme"),
        ("mailto:me@host.example", "mailto: is not a scheme"),
        ("http://user:SECRET@h/a.png", "a user name or a password"),
        ("https:\\SECRET@h/a.png", "a user name or a password"),
        ("http:me:SECRET@h/a.png", "a user name or a password"),
        ("h\tttp://me:SECRET@h/a.png", "a user name or a password"),
        ("file://me:SECRET@/a.png", "another machine"),
        ("//me:SECRET@h/a.png", "a user name or a password"),
        ("\\\\me:SECRET@h\\a.png", "a user name or a password"),
        ("s3://me:SECRET@b/a.png", "a user name or a password"),
        ("url:http://me:SECRET@h/a.png", "a user name or a password"),
        ('"http://me:SECRET@h/a.png"', "a user name or a password"),
        ("<http://me:SECRET@h/a.png>", "a user name or a password"),
        ("file://other/a.png", "another machine"),
    ],
)
def test_an_address_that_is_not_read_is_refused_by_name(
    tmp_path: Path, value: str, words: str
) -> None:
    table = write(tmp_path / "rows.jsonl", [{"path": value, "again": value}])

    (image,) = list_images(str(table)).images

    assert isinstance(image.part, Missing)
    assert image.part.code is ErrorCode.INVALID_ROW
    assert words in image.part.message
    assert "SECRET" not in image.to_json()


def test_an_id_has_no_secrets_in_it() -> None:
    signed = source_image("https://h/a b.png?v=1&sig=SECRET&sv=2")

    assert (signed.input_id, signed.source_uri) == ("https://h/a b.png?v=1",) * 2
    assert signed.uri == "https://h/a b.png?v=1&sig=SECRET&sv=2"
    assert (signed.name, signed.output_name) == ("a b.png", "a b")


def test_tables_in_several_folders_keep_them_apart(tmp_path: Path) -> None:
    for folder in "xy":
        write(tmp_path / folder / "rows.csv", [{"path": "a.png"}])

    listing = list_images(f"{tmp_path}/*/rows.csv")

    assert [image.output_name for image in listing.images] == ["x/a", "y/a"]


def test_a_table_on_another_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "mem://bucket/in/a.jsonl": b'{"path": "1.png"}\n{"path": "/x"}',
        "mem://bucket/in/b.csv": b"path\n2.png\n",
        "mem://bucket/in/1.png": b"one",
    }
    monkeypatch.setattr(MemoryFileSystem, "files", files)

    one, other = list_images("mem://bucket/in/*.jsonl").images
    (two,) = list_images("mem://bucket/in/b.csv").images

    assert (one.input_id, one.read(10)) == ("mem://bucket/in/a.jsonl#000000000000", b"one")
    assert other.uri == "/x"
    assert two.uri == "mem://bucket/in/2.png"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("data:image/png;base64," + "iVBORw0K" * 4000, "data: is not a scheme that is read"),
        ("DATA:,%89PNG", "data: is not a scheme that is read"),
        ("blob:https://host/5-6", "blob: is not a scheme that is read"),
        ("about:blank", "about: is not a scheme that is read"),
        ("cid:part1@host", "cid: is not a scheme that is read"),
        ("C:\\photos\\a.png", "is 'C:\\\\photos\\\\a.png', a path on a drive"),
        ("d:/photos/a.png", "a path on a drive or a server of Windows"),
        ("\\\\server\\share\\a.png", "a path on a drive or a server of Windows"),
        ("x" * 9000 + ".png", "has 9,004 characters, more than 8,192"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_what_is_no_path_and_no_url_is_refused_as_what_it_is(
    tmp_path: Path, name: str, value: str, words: str
) -> None:
    path = tmp_path / name
    text = json.dumps({"url": value}) if name == "rows.jsonl" else f'url\n"{value}"'
    path.write_text(text + "\n")

    (image,) = list_images(str(path)).images

    (problem,) = problems_of([image])
    assert words in problem
    assert len(problem) < 600 + len(str(path)) and "iVBOR" not in problem
    assert image.source_uri == str(path)


def test_names_with_a_colon_are_files(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"url": "12:30.png"}, {"url": "a: b.png"}])

    assert [image.uri for image in list_images(str(path)).images] == [
        f"{tmp_path}/12:30.png",
        f"{tmp_path}/a: b.png",
    ]


def test_messages_name_long_files_shortly(tmp_path: Path) -> None:
    deep = "/".join(["n" * 200] * 15)
    path = write(tmp_path / "rows.jsonl", [{"url": f"{deep}/a.png"}])

    (image,) = list_images(str(path)).images
    with pytest.raises(ImageError) as caught:
        image.read(10)

    assert len(caught.value.message) < 500
    assert "nn/a.png does not exist" in caught.value.message
    assert image.source_uri == f"{tmp_path}/{deep}/a.png"


odd_values = st.one_of(
    st.text(st.sampled_from("aA./\\:éÉ?#%\0 \n"), max_size=12),
    st.sampled_from(["..", "/", "//", "a.png", "a.jpg", "A.PNG", "a.png/b.jpg", "x" * 300]),
    st.sampled_from(["http://h/../../a.png", "http://[", "file:///a.png", "s3://b/../a", "\0"]),
    st.none(),
    st.integers(),
    st.lists(st.text(max_size=3), max_size=2),
)


def is_below(name: str) -> bool:
    """Whether a result of this name stays below its folder."""
    parts = name.split("/")
    return bool(name) and "\0" not in name and not {"", ".", ".."} & set(parts)


@given(st.lists(odd_values, min_size=1, max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_rows_say_each_is_one_input_with_a_place_of_its_own_below_the_output(
    tmp_path: Path, values: list[Any]
) -> None:
    path = write(tmp_path / "rows.jsonl", [{"url": value} for value in values])

    images = tuple(list_images(str(path)).images)

    outputs = [f"{image.output_name.casefold()}.png" for image in images]
    folders = {str(above) for name in outputs for above in PurePosixPath(name).parents}
    assert [image.columns["url"] for image in images] == values
    assert len({image.input_id for image in images}) == len(values)
    assert all(map(is_below, outputs))
    assert len(set(outputs)) == len(values)
    assert not folders & set(outputs)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_struct_with_a_path_alone_names_a_file(tmp_path: Path, name: str) -> None:
    rows = [{"image": {"path": "a.png", "bytes": None}}, {"image": {"path": "", "bytes": None}}]
    path = write(tmp_path / name, rows)

    images = tuple(list_images(str(path)).images)

    assert images[0].uri == f"{tmp_path}/a.png"
    assert "image.path has no value" in problems_of(images)[1]
