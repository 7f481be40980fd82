"""Places seen by what they are: no input is eaten, and no result is taken for one."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from linked_outputs import make, make_dataset
from runs import command, quick, rows, tree, upscale
from tar_files import write_tar

from beam_upscale import ReadImages, Upscale, WriteDataset
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.layouts.shard_files import write_images
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.places import Output
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.sources.inputs.source_image import source_image


@pytest.mark.parametrize(
    "name",
    [
        *("out", "out/", "out/images/a.png", "out//images///a.png", "out/./images/a.png"),
        *("out/none.png", "out/images/none/at/all.png", "store/../out/images/a.png"),
        *("to root", "to root/images/a.png", "to images/a.png", "to a link/b.png", "file.png"),
        *("through.png", "up/a.png", "dangling", "to root/none.png"),
    ],
)
def test_whatever_name_leads_into_the_output_lies_in_it(
    out: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(out.parent)

    for root in ("out", "to root", f"{out}/", f"file://{out}", "store/../out", "out/"):
        output = Output(root)
        assert output.holds(name)
        assert output.holds(f"{out.parent}/{name}")
        assert output.holds(f"file://{out.parent}/{name}")


@pytest.mark.parametrize(
    "name",
    [
        *(".", "store/kept.png", "beside/out/c.png", "out-of-focus/d.png", "none", "itself"),
        # Its bytes stay, whichever of its names is deleted or replaced.
        *("beside/hard.png", "out/../store/kept.png", "nul\0", "x" * 300, "d/" * 3000),
    ],
)
def test_nothing_else_lies_in_the_output(out: Path, name: str) -> None:
    assert not Output(str(out)).holds(f"{out.parent}/{name}")


def test_what_is_on_another_store_or_on_the_web_does_not_lie_in_the_output(out: Path) -> None:
    assert not Output(str(out)).holds(f"http://localhost{out}/images/a.png")
    assert not Output(str(out)).holds(f"mem:/{out}/images/a.png")
    assert not Output("mem://b/out").holds("b/out/images/a.png")
    assert not Output("mem://b/out").holds("https://b/out/images/a.png")


def test_an_output_that_is_not_there_yet_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out/images")
    (tmp_path / "here").symlink_to(".")

    output = Output(f"{tmp_path}/here/out")

    assert output.holds(f"{tmp_path}/link/a.png")
    assert output.holds(f"{tmp_path}/out/images/a.png")
    assert not output.holds(f"{tmp_path}/a.png")


@pytest.mark.parametrize(
    "name",
    [
        *("mem://b/out", "mem://b/out/", "mem://b/out/images/a.png", "mem://b//out//images/a.png"),
        *("mem:///b/out/a.png", "MEM://b/out/a.png", "mem://b/./out/a.png", "mem://b/x/../out/a"),
        # A name like any other to S3 and GCS: it begins as what is deleted there does.
        "mem://b/out/../a.png",
    ],
)
def test_places_on_other_stores_are_compared_by_normalized_names(name: str) -> None:
    for root in ("mem://b/out", "mem://b/out/", "mem://b//out", "MEM://b/out", "mem://b/x/../out"):
        assert Output(root).holds(name)


@pytest.mark.parametrize("name", ["mem://b/out-of-focus/a.png", "mem://b", "mem://c/out/a.png"])
def test_other_places_on_a_store_are_not_in_the_output(name: str) -> None:
    assert not Output("mem://b/out").holds(name)


def test_the_command_says_what_it_passes_over(tmp_path: Path, tiny_weights: Path) -> None:
    photos = make(tmp_path / "photos", "1.png")
    first = make_dataset(photos / "[first]", "a.png")
    make_dataset(photos / "second", "a.png")

    planned = command("plan", photos)
    refused = command("plan", first)

    assert f"the results of {first} and of 1 other datasets are passed over" in (
        planned.out.replace("\n", "")
    )
    assert refused.code == 2
    assert refused.err.startswith(f"beam-upscale: no_input: {first} holds no images but")


def in_a_table(folder: Path, named: object) -> Path:
    (folder / "rows.jsonl").write_text(json.dumps({"image": str(named)}))
    return folder / "rows.jsonl"


INPUTS: dict[str, Callable[[Path], object]] = {
    "the output": lambda out: out,
    "a folder": lambda out: out / "images",
    "a folder that is not there": lambda out: out / "none",
    "a file": lambda out: out / "images" / "a.png",
    "a uri": lambda out: f"file://{out}/images",
    "slashes": lambda out: f"{out}//images///",
    "dots": lambda out: f"{out.parent}/store/../out/images/.",
    "a glob": lambda out: f"{out}/images/*.png",
    "a glob of folders": lambda out: f"{out}/*/a.png",
    "a link": lambda out: out.parent / "to images",
    "a glob below a link": lambda out: f"{out.parent}/to images/**",
    "a link to a file": lambda out: out.parent / "file.png",
    "a link by way of the output": lambda out: out.parent / "through.png",
    "a table": lambda out: in_a_table(out.parent, out / "images" / "a.png"),
    "a table of relative paths": lambda out: in_a_table(out.parent, "store/../out/images/a.png"),
    "a table of uris": lambda out: in_a_table(out.parent, f"file://{out}/images/a.png"),
    "a table of links": lambda out: in_a_table(out.parent, "file.png"),
    "a table of what is gone": lambda out: in_a_table(out.parent, out / "images" / "gone.png"),
    "a table in the output": lambda out: in_a_table(out, out.parent / "store" / "kept.png"),
    "embedded images": lambda out: embedded(out / "data" / "000000.parquet"),
    "a glob of embedded images": lambda out: embedded(out / "data" / "0.parquet").parent / "*",
    "a tar": lambda out: write_tar(made(out / "data" / "000000.tar"), {"a.png": b"", "a.txt": b""}),
    "a caption": lambda out: with_side_file(out, "kept.txt", b"a cat"),
    "metadata": lambda out: with_side_file(out, "metadata.csv", b"file_name\nkept.png\n"),
}


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def embedded(path: Path) -> Path:
    """A data shard."""
    row = Row("a.png", "a.png", Status.UPSCALED, output_format="png", output_uri="data/0.parquet")
    with made(path).open("wb") as file:
        write_images(file, Layout.PARQUET, [row], [b"bytes"])
    return path


def with_side_file(out: Path, name: str, content: bytes) -> Path:
    """A single image, with what is said of it in the output."""
    (out / "images" / name).write_bytes(content)
    (out.parent / "store" / name).symlink_to(out / "images" / name)
    return out.parent / "store" / "kept.png"


@pytest.mark.parametrize("kind", INPUTS)
def test_an_input_in_the_output_is_refused_and_nothing_is_touched(
    out: Path, tiny_weights: Path, kind: str
) -> None:
    source = INPUTS[kind](out)
    before = tree(out.parent)

    for name in (str(out), f"{out.parent}/to root", f"file://{out}/"):
        finished = command("run", str(source), name, *quick(tiny_weights), "--overwrite")

        assert finished.code == 2
        [said] = finished.err.splitlines()
        assert said.startswith("beam-upscale: input_in_output: ")
        assert str(out.parent) in said
        assert tree(out.parent) == before


def test_an_input_in_the_output_is_refused_wherever_that_is(
    tmp_path: Path, tiny_weights: Path
) -> None:
    photos = make(tmp_path / "photos", "1.png")

    for output in (photos, tmp_path):
        with pytest.raises(SettingsError, match=r"take another output") as refused:
            upscale(photos, output, tiny_weights)
        assert refused.value.code is ErrorCode.INPUT_IN_OUTPUT
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "1.png"]


def test_overwrite_deletes_nothing_that_a_link_below_the_input_names(
    tmp_path: Path, tiny_weights: Path
) -> None:
    out = make_dataset(tmp_path / "out", "a.png")
    photos = make(tmp_path / "photos", "1.png")
    (photos / "picked.png").symlink_to(out / "images" / "a.png")

    with pytest.raises(SettingsError, match=r"picked\.png") as refused:
        upscale(photos, out, tiny_weights, overwrite=True)

    assert refused.value.code is ErrorCode.INPUT_IN_OUTPUT
    assert (out / "images" / "a.png").exists()


@pytest.mark.parametrize("place", ["data", ".staging/weights", "images"])
def test_weights_among_the_results_are_refused(
    tmp_path: Path, tiny_weights: Path, place: str
) -> None:
    photos, out = make(tmp_path / "photos", "1.png"), make_dataset(tmp_path / "out", "a.png")
    weights = made(out / place / "x2.safetensors")
    weights.write_bytes(tiny_weights.read_bytes())
    (tmp_path / "link.safetensors").symlink_to(weights)

    for name in (weights, tmp_path / "link.safetensors"):
        with pytest.raises(SettingsError, match=r"weights of esrgan-v1-x2plus") as refused:
            upscale(photos, out, name, overwrite=True)
        assert refused.value.code is ErrorCode.INPUT_IN_OUTPUT
    assert weights.exists() and (out / "images" / "a.png").exists()


# Runs


def test_weights_beside_the_results_stay(tmp_path: Path, tiny_weights: Path) -> None:
    photos, out = make(tmp_path / "photos", "1.png"), make_dataset(tmp_path / "out", "a.png")
    weights = out / "x2.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())

    upscale(photos, out, weights, overwrite=True)

    assert list(rows(out)) == ["1.png"]
    assert weights.exists() and not (out / "images" / "a.png").exists()


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("photos", "to output"),
        pytest.param("to input", "photos/up", marks=pytest.mark.slow),
        pytest.param("photos/**/*.png", "to input/up", marks=pytest.mark.slow),
    ],
)
def test_an_output_below_the_input_through_links_goes_on(
    tmp_path: Path, tiny_weights: Path, source: str, output: str
) -> None:
    photos = make(tmp_path / "photos", "1.png", "2.png")
    (tmp_path / "to output").symlink_to(photos / "up")
    (tmp_path / "to input").symlink_to(photos)
    (photos / "up").mkdir()
    (photos / "latest").symlink_to("up")
    (photos / "results").symlink_to("up/images")

    for _ in range(2):
        upscale(f"{tmp_path}/{source}", tmp_path / output, tiny_weights)

        assert list(rows(photos / "up")) == ["1.png", "2.png"]
        assert list(verify(str(photos / "up"))) == []


@pytest.mark.slow
def test_results_are_upscaled_once_more_where_they_are_named(
    tmp_path: Path, tiny_weights: Path
) -> None:
    photos = make(tmp_path / "photos", "1.png", "sub/2.png")
    upscale(photos, tmp_path / "once", tiny_weights)
    before = tree(tmp_path / "once")

    with pytest.raises(SettingsError, match="input_in_output"):
        upscale(tmp_path / "once" / "images", tmp_path / "once", tiny_weights)
    upscale(tmp_path / "once" / "images", tmp_path / "twice", tiny_weights)
    upscale(f"{tmp_path}/once/images/*.png", tmp_path / "glob", tiny_weights, layout="parquet")
    upscale(tmp_path / "glob" / "data" / "*.parquet", tmp_path / "cells", tiny_weights)

    assert tree(tmp_path / "once") == before
    for output, count, width in (("twice", 2, 16), ("glob", 1, 16), ("cells", 1, 32)):
        found = manifest(tmp_path / output)
        assert [row.output_width for row in found] == [width] * count
        assert list(verify(str(tmp_path / output))) == []


def manifest(output: Path) -> list[Row]:
    return [row for _, row in DatasetFolder(str(output)).committed_rows()]


@pytest.mark.slow
def test_an_input_with_a_second_name_in_the_output_keeps_its_bytes(
    tmp_path: Path, tiny_weights: Path
) -> None:
    photos, out = make(tmp_path / "photos", "1.png"), tmp_path / "out"
    content = (photos / "1.png").read_bytes()
    upscale(photos, out, tiny_weights)
    expected = tree(out)
    (out / "images" / "1.png").unlink()
    (out / "images" / "1.png").hardlink_to(photos / "1.png")

    upscale(photos, out, tiny_weights)
    assert tree(out) == expected
    (out / "images" / "1.png").unlink()
    (out / "images" / "1.png").hardlink_to(photos / "1.png")
    upscale(photos, out, tiny_weights, overwrite=True)

    assert tree(out) == expected
    assert (photos / "1.png").read_bytes() == content


# Pipelines of one's own


def test_a_pipeline_that_reads_from_its_output_is_refused_when_it_is_built(
    out: Path, tiny_weights: Path
) -> None:
    upscale_quickly = Upscale(weights=str(tiny_weights), device="cpu", precision="fp32", threads=1)
    before = tree(out.parent)

    for source in (out / "images", f"{out.parent}/to images/*.png"):
        for read in (ReadImages(str(source)), ReadImages(str(source), output=str(out))):
            with pytest.raises(SettingsError) as refused:
                _ = (
                    beam.Pipeline(runner=FnApiRunner())
                    | read
                    | upscale_quickly
                    | (WriteDataset(str(out)))
                )
            assert refused.value.code is ErrorCode.INPUT_IN_OUTPUT
    assert tree(out.parent) == before


def test_an_input_of_a_source_of_ones_own_that_lies_in_the_output_ends_the_pipeline(
    tmp_path: Path, tiny_weights: Path
) -> None:
    out = tmp_path / "out"
    make(out, "a.png")
    images = [source_image(f"{out}/../out/a.png")]
    settings = {"device": "cpu", "precision": "fp32", "threads": 1}

    with (
        pytest.raises(Exception, match="input_in_output"),
        beam.Pipeline(runner=FnApiRunner()) as p,
    ):
        upscaled = p | beam.Create(images) | Upscale(weights=str(tiny_weights), **settings)
        _ = upscaled | WriteDataset(str(out))

    assert not (out / "images").exists()


def test_a_pipeline_passes_over_its_own_results(tmp_path: Path, tiny_weights: Path) -> None:
    photos = make(tmp_path / "photos", "1.png")
    settings: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1}

    for _ in range(2):
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            _ = (
                pipeline
                | ReadImages(str(photos))
                | Upscale(weights=str(tiny_weights), **settings)
                | WriteDataset(f"{photos}/up")
            )
        assert list(rows(photos / "up")) == ["1.png"]


def test_a_pipeline_that_would_read_nothing_but_results_says_so(out: Path) -> None:
    with (
        pytest.raises(Exception, match=rf"^no_input .* name them: {out}/images$"),
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
    ):
        _ = pipeline | ReadImages(str(out))


# Mounts


CHECK = """
import json, sys
from pathlib import Path
from beam_upscale.sources.discovery import list_images
from beam_upscale.dataset.places import Output

base = Path(sys.argv[1])
out = base / "out"
found = {}
for name in ("again/images/a.png", "images/a.png", "deep/b.png", "one.png", "in/mounted/a.png"):
    found[name] = [Output(str(each)).holds(str(base / name)) for each in (out, base / "again")]
for name in ("in", "kept"):
    found[f"list {name}"] = [i.name for i in list_images(str(base / name), str(out)).images]
    found[f"glob {name}"] = [i.name for i in list_images(f"{base / name}/**", str(out)).images]
    found[f"all {name}"] = [i.name for i in list_images(str(base / name)).images]
found["named"] = [i.name for i in list_images(str(base / "images"), str(base / "twice")).images]
found["case"] = [i.name for i in list_images(str(base / "folded")).images]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_mounts_of_one_place_are_that_place(tmp_path: Path) -> None:
    out = make_dataset(tmp_path / "out", "a.png", "sub/b.png")
    make(tmp_path, "in/1.png", "in/mounted/hidden.png", "kept/2.png", "kept/again/hidden.png")
    make(tmp_path, "again/x.png", "images/x.png", "deep/x.png", "one.png")
    folded = make_dataset(tmp_path / "folded", "a.png")
    (folded / "Images").mkdir()
    # As a file system that holds two names for one gives it, whatever the case of its folder's.
    mounts = {
        out: "again",
        out / "images": "images",
        out / "images" / "sub": "deep",
        out / "images" / "a.png": "one.png",
        f"{out}/images": "in/mounted",
        f"{out}/": "kept/again",
        folded / "images": "folded/Images",
    }
    steps = [f"mount --bind '{place}' '{tmp_path / name}'" for place, name in mounts.items()]
    steps.append(shlex.join(["exec", sys.executable, "-c", CHECK, str(tmp_path)]))

    found = json.loads(in_a_namespace(" && ".join(steps)))

    for name in ("again/images/a.png", "images/a.png", "deep/b.png", "one.png", "in/mounted/a.png"):
        assert found[name] == [True, True], name
    for how in ("list", "glob", "all"):
        assert found[f"{how} in"] == ["1.png"], how
        assert found[f"{how} kept"] == ["2.png"], how
    assert found["named"] == ["a.png", "sub/b.png"]
    assert found["case"] == []


def in_a_namespace(script: str) -> str:
    """What a script prints that has mounts of its own."""
    said = ""
    for unshare in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        arguments = [*unshare, "sh", "-c", f"echo begun && {script}"]
        finished = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if finished.returncode == 0:
            return finished.stdout.removeprefix("begun\n")
        said += finished.stderr
        assert "mount" in finished.stderr or "unshare" in finished.stderr, said
    give_up = pytest.fail if os.environ.get("NOTHING_SKIPPED") else pytest.skip
    return give_up(f"nothing can be mounted here: {said}")
