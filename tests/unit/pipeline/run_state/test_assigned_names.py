"""Names and shards of inputs, over several runs."""

import random
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from earlier_runs import commit, make, put_aside, upscaled
from hypothesis import given
from hypothesis import strategies as st
from memory_filesystem import MemoryFileSystem

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.table import table
from beam_upscale.pipeline.run_state.resume import assign_shards
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.inputs.found_inputs import Inputs
from beam_upscale.sources.inputs.source_image import SourceImage, source_image
from beam_upscale.storage import files


def sources(*names: str) -> Inputs:
    """Inputs as `list_images` gives them."""
    return Inputs(source_image(f"/in/{name}", name) for name in names)


def output_names(images: Iterable[SourceImage]) -> dict[str, str]:
    return {image.name: image.output_name for image in images}


def test_names_that_would_meet_keep_their_extensions(inputs: Path) -> None:
    make(inputs, "a.jpg", "a.png", "b.png", "sub/a.jpg")

    assert output_names(list_images(str(inputs)).images) == {
        "a.jpg": "a.jpg",
        "a.png": "a.png",
        "b.png": "b",
        "sub/a.jpg": "sub/a",
    }


def test_names_that_differ_in_case_only_are_one(inputs: Path) -> None:
    make(inputs, "A.png", "a.png", "Straße.png", "STRASSE.png")

    names = list(output_names(list_images(str(inputs)).images).values())

    assert len({name.casefold() for name in names}) == 4


def test_names_that_differ_in_the_form_of_a_letter_only_are_one(inputs: Path) -> None:
    make(inputs, "\u00e9.png", "e\u0301.png", "\u00c9.jpg")

    names = list(output_names(list_images(str(inputs)).images).values())

    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == 3


def test_a_result_does_not_stand_where_a_folder_does(inputs: Path) -> None:
    make(inputs, "a.jpg", "a.png/b.jpg")

    names = output_names(list_images(str(inputs)).images)

    assert names == {"a.jpg": "a.jpg", "a.png/b.jpg": "a.png/b"}


file_names = st.lists(
    st.sampled_from(["a", "A", "b", "a.png", "a.jpg", "b.webp"]), min_size=1, max_size=3
).map("/".join)


@given(st.sets(file_names, max_size=12))
def test_output_names_never_meet(names: set[str]) -> None:
    images = sources(*names)
    MemoryFileSystem.files.clear()

    named = assigned(images, DatasetFolder("mem://out"), 10)

    results = [f"{image.output_name}.png".casefold() for image in named]

    assert len(set(results)) == len(names)
    assert not any(other.startswith(f"{result}/") for result in results for other in results)


def assigned(images: Inputs, dataset: DatasetFolder, shard_rows: int) -> list[SourceImage]:
    return [each.source for each in assign_shards(images, dataset, shard_rows)]


def shards(images: Iterable[SourceImage]) -> dict[str, int | None]:
    return {image.name: image.shard for image in images}


def test_shards_are_counted_off_in_order(dataset: DatasetFolder) -> None:
    found = assigned(sources("c", "a", "e", "b", "d"), dataset, shard_rows=2)

    assert shards(found) == {"a": 0, "b": 0, "c": 1, "d": 1, "e": 2}


def test_an_interrupted_run_goes_on_with_its_shards(dataset: DatasetFolder) -> None:
    images = sources("a", "b", "c", "d")
    before = assigned(images, dataset, shard_rows=2)
    files.write(dataset.resolve("images/b.png"), b"done")
    with files.publish(dataset.manifest_uri(1)) as file:
        pq.write_table(table([upscaled(before[2]), upscaled(before[3])]), file)

    after = assigned(images, dataset, shard_rows=2)

    assert shards(after) == shards(before)
    listed = assign_shards(images, dataset, shard_rows=2)
    assert [each.is_committed for each in listed] == [False, False, True, True]


def test_added_inputs_go_into_new_shards(dataset: DatasetFolder) -> None:
    before = assigned(sources("b", "d", "f"), dataset, shard_rows=2)
    commit(dataset, 0, [upscaled(image) for image in before[:2]])
    commit(dataset, 1, [upscaled(image) for image in before[2:]])

    after = list(assign_shards(sources("a", "b", "c", "d", "e", "f"), dataset, shard_rows=2))

    expected = {"a": 2, "b": 0, "c": 2, "d": 0, "e": 3, "f": 1}
    assert shards(each.source for each in after) == expected
    assert [each.source.name for each in after if not each.is_committed] == ["a", "c", "e"]


def test_names_of_earlier_results_stay_theirs(dataset: DatasetFolder) -> None:
    before = assigned(sources("a.jpg", "b.png.webp"), dataset, shard_rows=10)
    commit(dataset, 0, [upscaled(image) for image in before])

    after = assigned(
        sources("a.jpg", "a.png", "b.png", "b.jpg", "b.png.webp", "a.png.d/x", "A"), dataset, 10
    )

    names = output_names(after)
    assert (names["a.jpg"], names["b.png.webp"]) == ("a", "b.png")
    assert names["a.png"] == "a.png"
    assert len({name.casefold() for name in names.values()}) == 7


def test_the_name_of_an_input_that_is_gone_stays_taken(dataset: DatasetFolder) -> None:
    before = assigned(sources("a.jpg"), dataset, shard_rows=10)
    commit(dataset, 0, [upscaled(image) for image in before])

    assert output_names(assigned(sources("a.png"), dataset, 10)) == {"a.png": "a.png"}


def test_a_folder_does_not_stand_where_an_earlier_result_does(dataset: DatasetFolder) -> None:
    before = assigned(sources("a.jpg"), dataset, shard_rows=10)
    commit(dataset, 0, [upscaled(image) for image in before])

    names = output_names(assigned(sources("a.jpg", "a.png/b.png"), dataset, 10))

    assert not names["a.png/b.png"].startswith("a.png/")


def test_names_of_persisted_results_stay_theirs_when_inputs_are_added(
    dataset: DatasetFolder,
) -> None:
    before = assigned(sources("a.jpg"), dataset, shard_rows=10)
    put_aside(dataset, upscaled(before[0]))
    more = sources("a", "a.jpg")

    once = output_names(assigned(more, dataset, 10))
    again = output_names(assigned(more, dataset, 10))

    assert once["a.jpg"] == "a"
    assert once["a"] != "a"
    assert again == once


def test_rows_that_have_changed_places_keep_the_names_of_their_results(
    dataset: DatasetFolder,
) -> None:
    def inputs_of(*names: str) -> Inputs:
        ids = (f"table.csv#{number}" for number in range(len(names)))
        return Inputs(
            SourceImage(input_id, uri=f"/in/{name}.png", name=f"{name}.png", output_name=name)
            for input_id, name in zip(ids, names, strict=True)
        )

    before = assigned(inputs_of("a", "b", "c"), dataset, shard_rows=10)
    for image in before[:2]:
        put_aside(dataset, upscaled(image))

    after = assigned(inputs_of("b", "a", "c"), dataset, shard_rows=10)

    # Under each other's, the second to be made would take the first's away.
    assert [image.output_name for image in after] == ["a", "b", "c"]


def test_another_number_of_rows_is_another_assignment(dataset: DatasetFolder) -> None:
    images = sources("a", "b", "c", "d")
    before = assigned(images, dataset, shard_rows=2)
    with files.publish(dataset.manifest_uri(0)) as file:
        pq.write_table(table([upscaled(before[0]), upscaled(before[1])]), file)

    after = assigned(images, dataset, shard_rows=1)

    assert shards(after) == {"a": 0, "b": 0, "c": 1, "d": 2}


def test_shards_do_not_depend_on_the_order_of_the_listing(
    inputs: Path, dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(inputs, *(f"{number}.png" for number in range(20)), "3.jpg", "3.webp")
    expected = assigned(list_images(str(inputs)).images, dataset, 4)
    shuffled = list(files.list_files(str(inputs)))
    random.Random(7).shuffle(shuffled)
    monkeypatch.setattr(files, "list_files", lambda *_: iter(shuffled))

    assert assigned(list_images(str(inputs)).images, dataset, 4) == expected
