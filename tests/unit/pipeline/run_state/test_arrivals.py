"""Two inputs of one id are never one silent row; one input that comes twice is."""

import dataclasses
import io
import json
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from input_states import known
from PIL import Image

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.arrivals import (
    Arrivals,
    ListedArrivals,
    UnlistedArrival,
    id_hash,
    refuse_two_sources,
)
from beam_upscale.pipeline.run_state.input_state import (
    Allowance,
    ListingEntry,
    fingerprint,
    is_as_listed,
)
from beam_upscale.sources.inputs.source_image import SourceImage


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def own(input_id: str, level: int = 0, **fields: Any) -> SourceImage:
    return SourceImage(input_id, data=png(level), **{"name": "x.png", **fields})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


# A pipeline that failed is waited for as long before another one takes its output over.
LEASE_SECONDS = 1.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, which are in shards of two."""
    (tmp_path / "in").mkdir()
    for level in range(3):
        (tmp_path / f"in/{level}.png").write_bytes(png(level))
    return tmp_path / "in"


@pytest.fixture
def run(tiny_weights: Path, output: Path) -> Callable[..., None]:
    """Runs a pipeline of one's own: inputs, or a folder whose inputs go through a step."""

    def run(inputs: Any, step: Any = None, **options: Any) -> None:
        upscale = bu.Upscale(weights=str(tiny_weights), device="cpu", precision="fp32")
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            if isinstance(inputs, Path):
                read = bu.ReadImages(
                    str(inputs), output=str(output), shard_rows=2, lease_seconds=LEASE_SECONDS
                )
                images = pipeline | read | "Step" >> (step or beam.Map(lambda each: each))
            else:
                # Spread, as if each came from a worker of its own.
                images = pipeline | beam.Create(inputs) | beam.Reshuffle()
            sink = bu.WriteDataset(str(output), lease_seconds=LEASE_SECONDS, **options)
            _ = images | upscale | sink

    return run


def found(output: Path) -> list[Row]:
    return [row for _, row in DatasetFolder(str(output)).committed_rows()]


def is_complete(output: Path) -> bool:
    return bool(json.loads((output / "run.json").read_text())["complete"])


def assert_refused(run: Callable[[], None], output: Path, *parts: str) -> None:
    with pytest.raises(Exception, match="duplicate_id") as caught:
        run()
    for part in parts:
        assert part in str(caught.value)
    assert not is_complete(output)


# Inputs of no listing


def test_two_contents_of_one_id_are_refused_with_both(
    run: Callable[..., None], output: Path
) -> None:
    digests = [SourceImage("", data=png(level)).sha256() for level in (1, 2)]

    assert_refused(lambda: run([own("a", 1), own("a", 2), own("b")]), output, " a,", *digests)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"columns": {"label": "dog"}}, "the column label"),
        ({"name": "y.png"}, "output_uri"),
        ({"uri": "elsewhere.png"}, "source_uri"),
    ],
)
def test_one_content_with_other_words_is_another_input(
    run: Callable[..., None], output: Path, fields: dict[str, Any], named: str
) -> None:
    first = own("a", columns={"label": "cat"})
    second = dataclasses.replace(first, **fields)

    assert_refused(lambda: run([first, second]), output, f"they differ in {named}")


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_one_input_that_comes_twice_is_one_row(
    run: Callable[..., None], output: Path, layout: str
) -> None:
    run([own("a", 1, columns={"tags": ["x"]})] * 3 + [own("b", 2)], layout=layout)

    assert sorted((row.input_id, row.status) for row in found(output)) == [
        ("a", Status.UPSCALED),
        ("b", Status.UPSCALED),
    ]
    assert list(verify(str(output))) == []


def test_what_cannot_be_read_is_told_apart_by_what_is_known(
    run: Callable[..., None], output: Path, tmp_path: Path
) -> None:
    one, other = (SourceImage("a", uri=str(tmp_path / name)) for name in ("1.png", "2.png"))

    assert_refused(lambda: run([one, other]), output, "they differ in source_uri")
    run([one, one])

    assert [row.error_code for row in found(output)] == ["not_found"]


def test_ids_that_look_alike_are_several(run: Callable[..., None], output: Path) -> None:
    ids = ["é", unicodedata.normalize("NFD", "é"), "É", "e"]

    run([own(each, level, name="", output_name="same") for level, each in enumerate(ids)])

    assert sorted(row.input_id for row in found(output)) == sorted(ids)
    assert len({row.output_uri.casefold() for row in found(output) if row.output_uri}) == len(ids)
    assert list(verify(str(output))) == []


def test_names_that_are_given_twice_are_two_files(run: Callable[..., None], output: Path) -> None:
    run([own(each, level, shard=0, output_name="b/x") for level, each in enumerate("ab")])

    assert len({row.output_uri for row in found(output)}) == 2
    assert list(verify(str(output))) == []


def test_one_id_in_two_shards_is_refused_at_the_end(run: Callable[..., None], output: Path) -> None:
    inputs = [own("a", 1, shard=0), own("a", 2, shard=5)]

    assert_refused(lambda: run(inputs), output, "is in shard 000000", "shard 000005")


def test_an_id_that_another_shard_has_is_refused_before_it_is_there_too(
    run: Callable[..., None], output: Path
) -> None:
    run([own("a", 1, shard=0)])

    assert_refused(lambda: run([own("a", 1, shard=5)]), output, "shard 000005")

    assert [row.input_id for row in found(output)] == ["a"]


def test_an_id_of_an_earlier_run_with_another_content_is_a_changed_input(
    run: Callable[..., None], output: Path
) -> None:
    run([own("a", 1)])
    run([own("a", 2)])

    (row,) = found(output)
    assert row.source_sha256 == SourceImage("", data=png(2)).sha256()
    assert list(verify(str(output))) == []


def test_a_run_that_is_refused_does_not_look_like_the_complete_one_before(
    run: Callable[..., None], output: Path
) -> None:
    run([own("a", 1)])
    assert is_complete(output)

    assert_refused(lambda: run([own("a", 2), own("a", 3)]), output)


@pytest.mark.parametrize("is_listed", [False, True])
def test_an_input_that_is_left_to_a_later_run_is_so_though_its_twin_is_done(
    run: Callable[..., None], output: Path, folder: Path, is_listed: bool
) -> None:
    def twins(source: SourceImage) -> list[SourceImage]:
        return [source, known(source, is_postponed=True)]

    if is_listed:
        run(folder, beam.FlatMap(twins))
    else:
        run(twins(own("a")))

    assert not is_complete(output)
    assert found(output) == []


# Inputs of a listing


def darker(source: SourceImage) -> SourceImage:
    return dataclasses.replace(source, data=png(200 + int(source.name[0])))


def and_darker(source: SourceImage) -> list[SourceImage]:
    return [source, darker(source)]


def two_variants(source: SourceImage) -> list[SourceImage]:
    return [darker(source), dataclasses.replace(source, data=png(100))]


def and_relabeled(source: SourceImage) -> list[SourceImage]:
    return [source, dataclasses.replace(source, columns={"label": "flipped"})]


def and_made_anew(source: SourceImage) -> list[SourceImage]:
    return [source, SourceImage(source.input_id, data=png(9), shard=source.shard)]


@pytest.mark.parametrize(
    "step",
    [
        and_darker,
        pytest.param(two_variants, marks=pytest.mark.slow),
        pytest.param(and_relabeled, marks=pytest.mark.slow),
        and_made_anew,
    ],
)
def test_variants_of_a_listed_input_are_refused(
    run: Callable[..., None], output: Path, folder: Path, step: Any
) -> None:
    assert_refused(lambda: run(folder, beam.FlatMap(step)), output, str(folder))

    # What was refused leaves nothing in the way of what is right.
    run(folder)
    assert {row.status for row in found(output)} == {Status.UPSCALED}
    assert list(verify(str(output))) == []


def test_a_variant_is_refused_though_all_else_was_done_before(
    run: Callable[..., None], output: Path, folder: Path
) -> None:
    run(folder)

    assert_refused(lambda: run(folder, beam.FlatMap(and_darker)), output)


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_a_listed_input_that_comes_twice_is_one_row(
    run: Callable[..., None], output: Path, folder: Path, layout: str
) -> None:
    run(folder, beam.FlatMap(lambda each: [each, each]), layout=layout)

    assert [row.status for row in found(output)] == [Status.UPSCALED] * 3
    assert list(verify(str(output))) == []


def test_a_step_may_change_each_input_and_what_it_changes_is_done_anew(
    run: Callable[..., None], output: Path, folder: Path
) -> None:
    run(folder)
    run(folder, beam.Map(darker))

    expected = [SourceImage("", data=png(200 + level)).sha256() for level in range(3)]
    assert [row.source_sha256 for row in found(output)] == expected
    assert sorted(path.name for path in (output / "images").iterdir()) == [
        *("0.png", "1.png", "2.png"),
    ]
    assert list(verify(str(output))) == []


def test_an_input_that_a_step_gives_another_id_and_place_has_its_row(
    run: Callable[..., None], output: Path, folder: Path
) -> None:
    def renamed(source: SourceImage) -> SourceImage:
        number = int(source.name[0])
        return dataclasses.replace(source, input_id=f"own {number}", shard=7, output_name="same")

    run(folder, beam.Map(renamed))

    by_id = {row.input_id: row for row in found(output)}
    assert {by_id[f"own {level}"].status for level in range(3)} == {Status.UPSCALED}
    assert [row.error_code for row in by_id.values()].count("left_out") == 3
    assert DatasetFolder(str(output)).committed_shards() == [0, 1]
    assert list(verify(str(output))) == []


def test_an_input_that_a_step_makes_anew_is_no_second_row(
    run: Callable[..., None], output: Path, folder: Path
) -> None:
    def anew(source: SourceImage) -> SourceImage:
        return SourceImage(source.input_id, uri=source.uri, name=source.name, shard=9)

    assert_refused(lambda: run(folder, beam.Map(anew)), output, "dataclasses.replace")

    run(folder)
    assert [row.status for row in found(output)] == [Status.UPSCALED] * 3


def test_where_no_step_may_leave_one_out_what_was_done_before_is_no_excuse(
    run: Callable[..., None], output: Path, folder: Path
) -> None:
    run(folder)

    with pytest.raises(Exception, match=r"the runner has lost \S+/1\.png"):
        run(folder, beam.Filter(lambda each: each.name != "1.png"), may_leave_out=False)
    with pytest.raises(Exception, match=r"the runner has lost \S+/0\.png"):
        run(folder, beam.Filter(lambda _: False), may_leave_out=False)


# Without a pipeline


def told(input_id: str, level: int, *, is_new: bool = True) -> UnlistedArrival:
    source = own(input_id, level)
    record = Record(Row(input_id, input_id, Status.FAILED), None)
    return UnlistedArrival(record.to_json(), fingerprint(source), is_new)


def test_arrivals_of_several_bundles_are_put_together_in_any_order() -> None:
    news = [
        ListedArrivals("part", id_hash("a") + id_hash("b"), is_new=True),
        ListedArrivals("part", id_hash("c"), is_new=False),
        ListedArrivals("part", id_hash("a"), is_new=True),
        told("d", 1),
        told("e", 1, is_new=False),
    ]

    arrivals = Arrivals.of(news)

    assert arrivals == Arrivals.of(reversed(news))
    assert [each for each in "abcdef" if arrivals.has(each)] == list("abcde")
    assert arrivals.new_hashes == {id_hash("a"), id_hash("b")}
    assert (list(arrivals.new_unlisted), list(arrivals.unlisted)) == (["d"], ["d", "e"])
    assert arrivals.is_new and not arrivals.is_postponed
    assert not Arrivals.of([news[1], news[4]]).is_new
    assert Arrivals.of([None, *news]).is_postponed


def test_large_images_of_one_id_and_one_content_are_told_apart_too(folder: Path) -> None:
    source = SourceImage("a", uri=str(folder / "0.png"), columns={"label": "cat"})

    refuse_two_sources([source, known(source, allowance=Allowance(Decimal(0)))])
    with pytest.raises(SettingsError, match="the column label") as caught:
        refuse_two_sources([source, dataclasses.replace(source, columns={"label": "dog"})])

    assert caught.value.code is ErrorCode.DUPLICATE_ID


def test_columns_that_cannot_be_compared_are_no_obstacle() -> None:
    import numpy as np

    listed = own("a", columns={"box": [1, 2], "nan": float("nan")})
    listed = dataclasses.replace(listed, data=None)
    image = known(listed, listed=ListingEntry("part", listed))

    same = dataclasses.replace(image, columns={"nan": float("nan"), "box": np.array([1, 2])})
    other = dataclasses.replace(image, columns={"nan": 0.0, "box": np.array([1, 2])})

    assert [is_as_listed(each) for each in (image, same, other)] == [True, True, False]
    assert fingerprint(UpscaledImage(image, None).source) == fingerprint(listed)
