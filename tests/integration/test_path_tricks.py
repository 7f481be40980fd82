"""Names that would lead out of the output, or onto another's result, do neither."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import tree, upscale
from tar_files import END, member

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.names import folded
from beam_upscale.dataset.verify import verify

HOSTILE = [
    "../up.png",
    "../../run.json",
    "a/../../../../up.png",
    "/absolute.png",
    "//double.png",
    "./../.staging/stop",
    "../manifest/000000.parquet",
    "../README.md",
    "C:\\windows\\a.png",
    "C:/windows/a.png",
    "..\\..\\up.png",
    "CON.png",
    "nul",
    "aux.jpg",
    "ends.in.dots...",
    "ends in a space .png ",
    "nul\0.png",
    "line\nbreak.png",
    "same.png",
    "same.jpg",
    "same.PNG",
    "SAME.png",
    "same.png/below.png",
    "same.png.png",
    # One letter of two forms, for file systems that hold them for one; and letters that fold.
    "\u00e9.png",
    "e\u0301.png",
    "\u00c9.png",
    "stra\u00dfe.png",
    "STRASSE.png",
    "x" * 300 + "1.png",
    "x" * 300 + "2.png",
    "/".join(["deep" * 40] * 60) + ".png",
    "/".join(["d"] * 3000) + ".png",
    "~/home.png",
    "$HOME.png",
    "-rf.png",
    "*.png",
    "%2e%2e%2fup.png",
    "..",
    ".",
    "",
]
LATER = ["same.webp", "Same.Png", "E\u0301.png", "../same.png", "x" * 300 + "3.png"]

Source = Callable[[Path, dict[str, bytes]], None]


def embedded(folder: Path, images: dict[str, bytes]) -> None:
    """A Parquet file whose images have these paths."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": data, "path": name} for name, data in images.items()]
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), folder / "in.parquet")


def archive(folder: Path, images: dict[str, bytes]) -> None:
    """A tar whose members have these names, between links to what is outside."""
    links = [
        member("link.png", type=tarfile.SYMTYPE, linkname="../../../secret.png"),
        member("hard.png", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        member("link", type=tarfile.SYMTYPE, linkname="/"),
        member("device.png", type=tarfile.CHRTYPE),
    ]
    members = [member(name, data, pax_headers={"path": name}) for name, data in images.items()]
    (folder / "in.tar").write_bytes(b"".join([*links, *members, END]))


def rows_of(output: Path) -> list[Row]:
    return [row for _, row in DatasetFolder(str(output)).committed_rows()]


def everything(folder: Path, but: Path) -> dict[str, str]:
    """What a folder holds outside of another."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and but not in path.parents
    }


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4 + number % 7, 4), (number, 0, 0)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("source", "layout"),
    [
        (embedded, "files"),
        pytest.param(archive, "files", marks=pytest.mark.slow),
        (archive, "parquet"),
        pytest.param(embedded, "webdataset", marks=pytest.mark.slow),
    ],
)
def test_no_name_leads_out_of_the_output_or_onto_anothers_result(
    tmp_path: Path, tiny_weights: Path, source: Source, layout: str
) -> None:
    box = tmp_path / "a" / "b" / "c"
    output = box / "out"
    box.mkdir(parents=True)
    (tmp_path / "a" / "secret.png").write_bytes(encoded(255))
    images = {name: encoded(number) for number, name in enumerate(HOSTILE)}
    source(box, images)
    [path] = box.iterdir()

    def run() -> list[Row]:
        before = everything(tmp_path / "a", output)
        upscale(path, output, tiny_weights, layout=layout, shard_rows=10)
        assert everything(tmp_path / "a", output) == before
        assert list(verify(str(output))) == []
        return [row for row in rows_of(output) if row.status is Status.UPSCALED]

    first, left = run(), tree(output)
    assert (run(), tree(output)) == (first, left)
    images |= {name: encoded(100 + number) for number, name in enumerate(LATER)}
    source(box, images)
    last = run()

    if source is embedded:
        assert (len(first), len(last)) == (len(HOSTILE), len(images))
    else:
        # Some members of a tar are no images by their names, or go with one of another ending.
        assert len(HOSTILE) / 2 < len(first) < len(last) < len(images)
    assert {row.input_id: row for row in last}.items() >= {r.input_id: r for r in first}.items()
    contents = {hashlib.sha256(data).hexdigest() for data in images.values()}
    assert {row.source_sha256 for row in last} <= contents
    if layout == "files":
        places = {folded(str(row.output_uri)) for row in last}
        assert len(places) == len(last)
        results = output.resolve() / "images"
        assert all((output / str(row.output_uri)).resolve().is_relative_to(results) for row in last)
