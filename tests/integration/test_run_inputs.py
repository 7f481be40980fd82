"""Runs over each kind of input: priced, done, gone on with, noticed where it changed, verified."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image
from runs import command, quick, upscale
from tar_files import END, member, tar
from web_server import WebServer, file, serving, status

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.pipeline.one_image.header import read_header
from beam_upscale.pipeline.read import ReadImages
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage.http import attempts, connections
from beam_upscale.storage.local.local_disk import LocalDisk

Images = Mapping[str, bytes]
Writer = Callable[[Path, Images, str], Path]


@pytest.fixture
def web() -> Iterator[WebServer]:
    with serving() as server:
        yield server


@pytest.fixture
def encoded(photograph: Callable[..., Image.Image]) -> Callable[[int], bytes]:
    def encode(seed: int) -> bytes:
        stream = io.BytesIO()
        photograph(seed, 12, 10).save(stream, "png")
        return stream.getvalue()

    return encode


def write_files(folder: Path, images: Images) -> None:
    for name, data in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def jsonl(folder: Path, images: Images, bad: str) -> Path:
    write_files(folder, images)
    rows: list[dict[str, Any]] = [{"path": name, "label": name} for name in images]
    lines = [json.dumps(row) for row in [*rows, {"path": None, "label": bad}]]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def csv(folder: Path, images: Images, bad: str) -> Path:
    write_files(folder, images)
    lines = ["label,image_url", *(f"{name},{folder}/{name}" for name in images), f"{bad},"]
    (folder / "rows.csv").write_text("\n".join(lines))
    return folder / "rows.csv"


def parquet(folder: Path, images: Images, bad: str) -> Path:
    write_files(folder, images)
    table = pa.table({"uri": [*images, None], "label": [*images, bad]})
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def embedded(folder: Path, images: Images, bad: str) -> Path:
    folder.mkdir(exist_ok=True)
    values = [{"bytes": data, "path": name} for name, data in images.items()]
    cells = pa.array([*values, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": cells, "label": [*images, bad]})
    pq.write_table(table, folder / "rows.parquet", row_group_size=2)
    return folder / "rows.parquet"


def webdataset(folder: Path, images: Images, bad: str) -> Path:
    folder.mkdir(exist_ok=True)
    parts = []
    for name, data in images.items():
        parts.append(member(name, data))
        parts.append(member(name.replace(".png", ".json"), json.dumps({"label": name}).encode()))
    parts.append(member(bad, type=tarfile.SYMTYPE, linkname="/etc/passwd"))
    columns = json.dumps({"label": bad}).encode()
    parts.append(member(bad.replace(".png", ".json"), columns))
    (folder / "shard.tar").write_bytes(b"".join([*parts, END]))
    return folder / "shard.tar"


def rows(output: Path) -> dict[str, Row]:
    """The manifest's rows by label."""
    found = [row for _, row in DatasetFolder(str(output)).committed_rows()]
    assert len({row.input["label"] for row in found}) == len(found)
    return {row.input["label"]: row for row in found}


@pytest.mark.parametrize(
    ("write", "code"),
    [
        pytest.param(jsonl, "invalid_row", marks=pytest.mark.slow),
        (csv, "invalid_row"),
        pytest.param(parquet, "invalid_row", marks=pytest.mark.slow),
        pytest.param(embedded, "invalid_row", marks=pytest.mark.slow),
        (webdataset, "invalid_archive"),
    ],
)
def test_a_run_goes_from_rows_to_a_dataset_and_on(
    tmp_path: Path,
    tiny_weights: Path,
    encoded: Callable[[int], bytes],
    write: Writer,
    code: str,
) -> None:
    images = {f"{number}.png": encoded(number) for number in range(3)}
    source, output = write(tmp_path / "in", images, "bad.png"), tmp_path / "out"

    planned = json.loads(command("plan", source, "--json").out)
    finished = command("run", source, output, *quick(tiny_weights), "--max-credits", "0.4")
    first = rows(output)
    repeated = command("run", source, output, *quick(tiny_weights), "--max-credits", "0.4")

    assert finished.code == repeated.code == 0
    assert planned["totals"]["upscaled"]["credits"] == "0.6"
    assert [image["error_code"] for image in planned["images"]].count(code) == 1
    assert sorted(row.status for row in first.values()) == [
        *(Status.FAILED, Status.OVER_BUDGET, Status.UPSCALED, Status.UPSCALED),
    ]
    assert first["bad.png"].error_code == code
    assert rows(output) == first
    assert list(verify(str(output))) == []

    images["1.png"] = encoded(7)
    write(tmp_path / "in", images, "bad.png")
    upscale(source, output, tiny_weights, retry=frozenset({Status.OVER_BUDGET}))
    last = rows(output)

    assert {label for label in last if last[label].status is Status.UPSCALED} == set(images)
    assert last["1.png"].source_sha256 != first["1.png"].source_sha256
    assert last["bad.png"] == first["bad.png"]
    assert sum(row.credits for row in last.values()) == Decimal("0.6")
    assert {row.input_id for row in last.values()} == {row.input_id for row in first.values()}
    for label in images:
        with Image.open(output / str(last[label].output_uri)) as image:
            assert image.size == (24, 20)
    assert list(verify(str(output))) == []


def test_a_run_over_urls(
    tmp_path: Path,
    tiny_weights: Path,
    encoded: Callable[[int], bytes],
    web: WebServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts, "PATIENCE", connections.Patience(first_pause_seconds=0.01))
    web.replies |= {
        "/a.png": file(encoded(0)),
        "/b": file(encoded(1), ranges=False),
        "/secret": status(403),
        "/ill": status(500),
        "/large": file(bytes(100_000)),
    }
    names = ["a.png", "b?size=1", "b?size=2", "gone", "secret", "ill", "large"]
    source, output = tmp_path / "rows.jsonl", tmp_path / "out"
    host = web.url.partition("://")[2]
    values = {name: f"{web.url}/{name}" for name in names} | {
        "blanks": f" {web.url}/a.png\n",
        "signed": f"{web.url}/a.png?v=1&X-Amz-Signature=SECRET",
        "password": f"http://me:SECRET@{host}/a.png",
        "ftp": f"ftp://me:SECRET@{host}/a.png",
        "link-local": "http://0xa9fea9fe/a.png",
    }
    # Another column may have it, too.
    lines = [json.dumps({"url": v, "origin": [v], "label": name}) for name, v in values.items()]
    source.write_text("\n".join(lines))

    planned = json.loads(command("plan", source, "--json", "--max-input-bytes", "50000").out)
    upscale(source, output, tiny_weights, max_input_bytes=50_000, layout="parquet")
    first = rows(output)

    codes = {label: row.error_code for label, row in first.items()}
    assert codes == {
        "a.png": None,
        "b?size=1": None,
        "b?size=2": None,
        "gone": "not_found",
        "secret": "permission_denied",
        "ill": "read_error",
        "large": "file_too_large",
        "blanks": None,
        "signed": None,
        "password": "invalid_row",
        "ftp": "invalid_row",
        "link-local": "permission_denied",
    }
    assert first["blanks"].source_uri == f"{web.url}/a.png"
    assert first["signed"].source_uri == f"{web.url}/a.png?v=1"
    told = [*map(str, first.values()), json.dumps(planned), (output / "run.json").read_text()]
    assert not any("SECRET" in text for text in told)
    assert {image["error_code"] for image in planned["images"]} == set(codes.values())
    assert first["a.png"].source_uri == f"{web.url}/a.png"
    assert list(verify(str(output))) == []

    # Links that rot take nothing with them; content that changes is noticed.
    web.replies |= {"/a.png": status(404), "/b": file(encoded(2)), "/secret": file(encoded(3))}
    upscale(source, output, tiny_weights, max_input_bytes=50_000, layout="parquet")
    last = rows(output)

    assert last["a.png"] == first["a.png"]
    assert last["b?size=1"].source_sha256 != first["b?size=1"].source_sha256
    assert last["secret"].status is Status.UPSCALED
    assert list(verify(str(output))) == []


def test_an_image_may_be_named_by_its_url(
    tmp_path: Path, tiny_weights: Path, encoded: Callable[[int], bytes], web: WebServer
) -> None:
    web.replies["/in/a.png"] = file(encoded(0))

    upscale(f"{web.url}/in/a.png", tmp_path / "out", tiny_weights)

    ((_, row),) = DatasetFolder(str(tmp_path / "out")).committed_rows()
    assert (row.input_id, row.output_uri) == (f"{web.url}/in/a.png", "images/a.png")


def test_private_networks_may_be_denied(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The command sets it for this process.
    monkeypatch.setattr(FileSystems, "_pipeline_options", None)
    url = f"{web.url}/a.png?token=SECRET"

    planned = command("plan", url, "--json", "--deny-private-networks")

    (image,) = json.loads(planned.out)["images"]
    assert image["error_code"] == "permission_denied"
    assert "SECRET" not in planned.out + planned.err
    assert not web.asked


def test_an_input_that_nothing_reads_is_refused_at_once(web: WebServer) -> None:
    for uri, words in {
        web.url.replace("//", "//me:SECRET@"): "a user name or a password",
        "ftp://me:SECRET@host.example/t.csv": "ftp: is not a scheme that is read",
    }.items():
        with pytest.raises(SettingsError, match=words) as caught:
            list_images(uri)
        assert caught.value.code is ErrorCode.INVALID_OPTION
        assert "SECRET" not in caught.value.message
    assert not web.asked


def test_a_header_of_a_url_is_read_from_a_range(
    photograph: Callable[..., Image.Image], tmp_path: Path, web: WebServer
) -> None:
    photograph(0, 900, 700).effect_spread(300).save(tmp_path / "a.png")
    web.replies["/a.png"] = file((tmp_path / "a.png").read_bytes())
    (image,) = list_images(f"{web.url}/a.png").images

    header = read_header(image, shared_pool(), max_bytes=10**8)

    assert (header.width, header.height) == (900, 700)
    assert [asked for _, asked in web.ranges] == ["bytes=0-262143", "bytes=0-0"]


def test_tables_and_tars_of_a_web_server_are_inputs_too(web: WebServer) -> None:
    web.replies |= {
        "/d/rows.jsonl": file(b'{"url": "1.png"}'),
        "/d/1.png": file(b"one"),
        "/d/a.tar": file(tar({"2.png": b"two", "3.png": b"three"})),
    }

    (one,) = list_images(f"{web.url}/d/rows.jsonl?version=1").images
    two, three = list_images(f"{web.url}/d/a.tar").images

    assert one.read(10) == b"one"
    assert (two.read(10), three.read(10)) == (b"two", b"three")
    assert web.ranges[-1][1] is not None


def test_captions_and_columns_of_a_tar_guide_its_images(
    tmp_path: Path, tiny_pipeline: Path, encoded: Callable[[int], bytes]
) -> None:
    members = {
        "1.png": encoded(1),
        "1.txt": b"a caption\n",
        "2.png": encoded(2),
        "2.json": b'{"prompt": "a column", "steps": 2}',
        "3.png": encoded(3),
        "3.json": b'{"steps": 99}',
    }
    (tmp_path / "a.tar").write_bytes(tar(members))

    upscale(
        tmp_path / "a.tar",
        tmp_path / "out",
        tiny_pipeline,
        engine="stable-diffusion-x4-latent-upscaler",
        steps=1,
    )

    found = [row for _, row in DatasetFolder(str(tmp_path / "out")).committed_rows()]
    assert [(row.prompt, row.steps, row.error_code) for row in found] == [
        ("a caption", 1, None),
        ("a column", 2, None),
        (None, None, "invalid_steps"),
    ]


def test_a_table_that_names_the_same_bytes_elsewhere_costs_nothing(
    tmp_path: Path, tiny_weights: Path, encoded: Callable[[int], bytes]
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    images = {"a.png": encoded(0), "b.png": encoded(1)}
    upscale(jsonl(folder, images, "bad"), output, tiny_weights)
    before = rows(output)["a.png"]

    (folder / "a.png").rename(folder / "moved.png")
    table = (folder / "rows.jsonl").read_text().replace('"path": "a.png"', '"path": "moved.png"')
    (folder / "rows.jsonl").write_text(table)
    upscale(folder / "rows.jsonl", output, tiny_weights)
    after = rows(output)["a.png"]

    assert after.source_uri == f"{folder}/moved.png"
    assert (after.output_uri, after.output_sha256) == (before.output_uri, before.output_sha256)
    assert list(verify(str(output))) == []


def test_a_row_whose_number_was_another_urls_is_not_that_one(
    tmp_path: Path, tiny_weights: Path, encoded: Callable[[int], bytes], web: WebServer
) -> None:
    web.replies["/a.png"] = file(encoded(0))
    source, output = tmp_path / "rows.jsonl", tmp_path / "out"
    source.write_text(json.dumps({"url": f"{web.url}/a.png", "label": "first"}))
    upscale(source, output, tiny_weights)

    source.write_text(json.dumps({"url": f"{web.url}/gone.png", "label": "other"}))
    upscale(source, output, tiny_weights)

    (row,) = rows(output).values()
    assert (row.input["label"], row.error_code) == ("other", "not_found")
    assert list(verify(str(output))) == []


# In a pipeline


@pytest.mark.parametrize("write", [embedded, csv])
def test_a_pipeline_reads_each_row_group_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer
) -> None:
    images = {f"{number}.png": b"%d" % number for number in range(6)}
    source = write(tmp_path / "in", images, "bad.png")
    opened: list[str] = []
    open_read = LocalDisk.open_read
    monkeypatch.setattr(
        LocalDisk, "open_read", lambda self, uri: opened.append(uri) or open_read(self, uri)
    )

    def read(image: SourceImage) -> tuple[str, bytes]:
        label = image.columns["label"]
        return label, b"" if label == "bad.png" else image.read(10)

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        images_read = (
            pipeline
            | ReadImages(str(source), image_column="image_url" if write is csv else None)
            | beam.Map(read)
        )
        assert_that(images_read, equal_to([*images.items(), ("bad.png", b"")]))

    # Once for the listing, and then each group of two.
    assert opened.count(str(source)) == (1 + 3 if write is embedded else 1)
