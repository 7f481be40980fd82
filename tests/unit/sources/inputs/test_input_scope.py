"""Which inputs are results of runs, and those of which run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from linked_outputs import RUN, make, make_dataset
from memory_filesystem import MemoryFileSystem
from memory_hdfs import hdfs

from beam_upscale.dataset.places import is_dataset
from beam_upscale.dataset.run_json import RUN_FORMAT, VERSION
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.sources.discovery import list_images, no_input
from beam_upscale.sources.inputs.found_inputs import Listing
from beam_upscale.storage import files


def names(listing: Listing) -> list[str]:
    return [image.name for image in listing.images]


def test_what_results_are_written_into_through_a_link_belongs_to_the_output(
    tmp_path: Path,
) -> None:
    make(tmp_path, "large disk/photos/a.png", "elsewhere/a.png")
    out = make_dataset(tmp_path / "out")
    (out / "images").symlink_to(tmp_path / "large disk" / "photos")

    with pytest.raises(SettingsError) as refused:
        list_images(f"{tmp_path}/large disk/photos", exclude=str(out))

    assert refused.value.code is ErrorCode.INPUT_IN_OUTPUT
    assert names(list_images(f"{tmp_path}/large disk", exclude=str(out))) == []
    assert names(list_images(f"{tmp_path}/elsewhere", exclude=str(out))) == ["a.png"]


def test_no_results_are_listed_from_above(tmp_path: Path) -> None:
    photos = make(tmp_path / "photos", "1.png", "images/2.png", "data/3.png")
    make_dataset(photos / "first", "a.png")
    make_dataset(photos / "deep/second", "b.png")
    make(photos / "first", "own.png", "originals/images/c.png", "Images/d.png")
    # Of another program, and of a run that has just begun.
    make(photos / "other", "images/e.png")
    (photos / "other" / "run.json").write_text(json.dumps({"format": "mine"}))
    make_dataset(photos / "begun", "f.png")
    (photos / "begun" / "run.json").write_text(json.dumps({"format": RUN_FORMAT}))

    listing = list_images(str(photos))

    expected = [
        *("1.png", "data/3.png", "first/Images/d.png", "first/originals/images/c.png"),
        *("first/own.png", "images/2.png", "other/images/e.png"),
    ]
    assert names(listing) == expected
    assert listing.datasets == tuple(f"{photos}/{n}" for n in ("begun", "deep/second", "first"))
    # The run.json of the other program is a file by whose name it is no image.
    assert listing.ignored == 1


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"format": null}', "\0"])
def test_a_file_that_is_only_called_like_it_makes_no_dataset(tmp_path: Path, text: str) -> None:
    make(tmp_path, "images/a.png")
    (tmp_path / "run.json").write_text(text)

    assert not is_dataset(str(tmp_path))
    assert names(list_images(str(tmp_path))) == ["images/a.png"]


def test_no_link_below_the_input_leads_to_results(tmp_path: Path) -> None:
    out = make_dataset(tmp_path / "out", "a.png", "sub/b.png")
    other = make_dataset(tmp_path / "other", "c.png")
    photos = make(tmp_path / "photos", "1.png")
    make(tmp_path, "more/2.png")
    for name, target in {
        "out": out,
        "images": out / "images",
        "deeper": out / "images" / "sub",
        "file.png": out / "images" / "a.png",
        "another": other,
        "others": other / "images",
        "other.png": other / "images" / "c.png",
        "more": tmp_path / "more",
    }.items():
        (photos / name).symlink_to(target)

    with_output = list_images(str(photos), exclude=str(out))
    without = list_images(str(photos))
    globbed = list_images(f"{photos}/**/*.png", exclude=str(out))

    assert names(with_output) == names(without) == ["1.png", "more/2.png"]
    assert names(globbed) == ["1.png", "more/2.png"]
    assert with_output.datasets == (str(other),)
    assert without.datasets == (str(other), str(out))


def test_an_output_below_the_input_is_passed_over_by_whatever_name(tmp_path: Path) -> None:
    photos = make(tmp_path / "photos", "1.png")
    # As another program left it, but for the name of the output.
    make(photos / "up", "images/a.png", "own.png")
    (tmp_path / "to output").symlink_to(photos / "up")
    (tmp_path / "to input").symlink_to(photos)
    (photos / "again").symlink_to("up")

    for source in (photos, tmp_path / "to input", f"{photos}/*", f"{photos}/**/*.png"):
        for output in (photos / "up", tmp_path / "to output", tmp_path / "to input/up"):
            assert names(list_images(str(source), exclude=str(output))) == ["1.png"]


@pytest.mark.parametrize(
    "pattern",
    [
        "out/images",
        "out/images/",
        "out/images/*.png",
        "to images",
        "out/images/**",
        "out/images/a*",
    ],
)
def test_results_that_the_pattern_names_are_inputs_of_another_run(out: Path, pattern: str) -> None:
    listing = list_images(f"{out.parent}/{pattern}", exclude=f"{out.parent}/twice")

    assert "a.png" in names(listing)
    assert listing.datasets == ()


def test_one_result_and_those_that_a_table_names_are_inputs_of_another_run(out: Path) -> None:
    table = out.parent / "rows.csv"
    table.write_text("image\nout/images/a.png\nfile.png\n")

    assert names(list_images(f"{out}/images/a.png", exclude="twice")) == ["a.png"]
    assert names(list_images(f"{out.parent}/file.png", exclude="twice")) == ["file.png"]
    assert len(list_images(str(table), exclude="twice").images) == 2


def test_a_link_among_named_results_may_lead_to_others_of_the_same_run(tmp_path: Path) -> None:
    out = make_dataset(tmp_path / "out", "a.png", "sub/b.png")
    other = make_dataset(tmp_path / "other", "c.png")
    (out / "images" / "sub" / "up").symlink_to(out / "images")
    (out / "images" / "sub" / "other").symlink_to(other / "images")

    assert names(list_images(f"{out}/images/sub")) == ["b.png", "up/a.png"]


@pytest.mark.parametrize(
    ("layout", "named"), [("files", "images"), ("parquet", "data/*.parquet"), (7, "images")]
)
def test_a_dataset_given_as_input_says_what_to_name_instead(
    tmp_path: Path, layout: object, named: str
) -> None:
    out = make_dataset(tmp_path / "out", "a.png")
    (out / "run.json").write_text(json.dumps({"format": RUN_FORMAT, "layout": layout}))

    for pattern in (out, f"{out}/*", f"{out}/im*/a.png"):
        listing = list_images(str(pattern))
        assert names(listing) == []
        assert f"name them: {out}/{named}" in no_input(str(pattern), listing).message


def test_results_of_a_later_version_are_no_inputs(tmp_path: Path) -> None:
    out = make_dataset(tmp_path / "out", "a.png")
    (out / "run.json").write_text(json.dumps({"format": RUN_FORMAT, "version": VERSION + 1}))

    listing = list_images(str(out))

    assert names(listing) == []
    assert f"name them: {out}/images" in no_input(str(out), listing).message


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """The root of an object store, and of HDFS, in memory."""
    MemoryFileSystem.files.clear()
    if request.param == "mem":
        yield "mem://b"
        return
    with hdfs():
        yield "hdfs://b"


@pytest.mark.parametrize("store", ["mem", "hdfs"], indirect=True)
def test_no_results_are_listed_on_other_stores(store: str) -> None:
    for name in (
        *("in/1.png", "in/images/2.png", "in/first/images/a.png", "in/first/own.png"),
        *("in/up/images/b.png", "in/other/data/c.png", "in/first/manifest/0.parquet"),
    ):
        files.write(f"{store}/{name}", b"")
    files.write(f"{store}/in/first/run.json", RUN.encode())
    files.write(f"{store}/in/other/run.json", b"{}")

    for pattern in ("in", "in/", "in/**/*.png", "i*"):
        listing = list_images(f"{store}/{pattern}", exclude=f"{store}//in/up/")
        found = sorted(str(image.uri).rpartition("/")[2] for image in listing.images)
        assert found == ["1.png", "2.png", "c.png", "own.png"], pattern
        assert listing.datasets == (f"{store}/in/first",)
    for pattern in ("in/first/images", "in/first/images/*", "in/first/images/a.png"):
        assert names(list_images(f"{store}/{pattern}")) == ["a.png"]
    assert names(list_images(f"{store}/in/first/im*/a.png")) == []
    for pattern in ("in/up", "in/up/images/*.png", "in//up/images/b.png", "in/x/../up/i*"):
        assert refusal(f"{store}/{pattern}", f"{store}/in/up") is ErrorCode.INPUT_IN_OUTPUT


def test_a_store_that_does_not_answer_for_a_run_json_refuses_the_listing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    MemoryFileSystem.files.clear()
    MemoryFileSystem.files |= {"mem://b/in/run.json": RUN.encode(), "mem://b/in/images/a.png": b""}

    def broken(*_: object) -> None:
        raise RuntimeError("503")

    monkeypatch.setattr(MemoryFileSystem, "open", broken)

    assert refusal("mem://b/in", None) is ErrorCode.READ_ERROR


def refusal(pattern: object, output: object) -> ErrorCode | None:
    """The code that a listing for an output is refused with; None where it is made."""
    try:
        list_images(str(pattern), None if output is None else str(output))
    except SettingsError as error:
        return error.code
    return None
