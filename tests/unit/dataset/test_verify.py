"""`verify` finds whatever is not as a run left it."""

import functools
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import upscale

from beam_upscale.dataset.verify import ProblemKind, verify

ALL_LAYOUTS = pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
# Where packed images are not looked at, one layout that packs them stands for the others.
FILES_OR_PACKED = pytest.mark.parametrize("layout", ["files", "parquet"])


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
) -> Callable[[str], Path]:
    """Makes a dataset of four images and a failure in two shards; each layout once."""
    inputs = tmp_path_factory.mktemp("in")
    (inputs / "more").mkdir()
    for number in range(4):
        photograph(number, 20, 14).save(inputs / f"more/{number}.png")
    (inputs / "broken.png").write_text("not an image")

    @functools.cache
    def make(layout: str) -> Path:
        output = tmp_path_factory.mktemp(layout) / "out"
        upscale(inputs, output, tiny_weights, layout=layout, shard_rows=3)
        assert list(verify(str(output))) == []
        return output

    return make


@pytest.fixture
def output(tmp_path: Path, made: Callable[[str], Path], request: pytest.FixtureRequest) -> Path:
    """A copy of that dataset, in the test's layout."""
    copied = tmp_path / "out"
    shutil.copytree(made(request.node.callspec.params["layout"]), copied)
    return copied


def problems(output: Path) -> Counter[tuple[ProblemKind, str]]:
    return Counter((problem.kind, problem.path) for problem in verify(str(output)))


def flip_bit(path: Path, position: int) -> None:
    values = bytearray(path.read_bytes())
    values[position] ^= 1
    path.write_bytes(values)


def an_image(output: Path, layout: str) -> str:
    """The path of an image, or of the shard that has it."""
    return {
        "files": "images/more/1.png",
        "parquet": "data/000000.parquet",
        "webdataset": "data/000000.tar",
    }[layout]


@ALL_LAYOUTS
def test_flipped_bit_in_an_image(output: Path, layout: str) -> None:
    path = output / an_image(output, layout)
    values = path.read_bytes()
    flip_bit(path, values.index(b"IDAT") + 20)

    found = problems(output)

    assert found.keys() == {(ProblemKind.CHANGED, an_image(output, layout))}


@ALL_LAYOUTS
def test_every_flipped_bit_of_a_data_shard_is_found(output: Path, layout: str) -> None:
    """Whichever part of the file it hits: what cannot be read any more is told as well."""
    path = output / an_image(output, layout)
    size = path.stat().st_size
    for position in [*range(0, size, max(1, size // 25)), size - 1, size - 6]:
        flip_bit(path, position)

        assert (ProblemKind.CHANGED, an_image(output, layout)) in problems(output)
        flip_bit(path, position)
    assert problems(output) == Counter()


@FILES_OR_PACKED
def test_every_flipped_bit_of_a_manifest_is_found(output: Path, layout: str) -> None:
    path = output / "manifest/000001.parquet"
    size = path.stat().st_size
    for position in [*range(0, size, max(1, size // 25)), size - 1, size - 6]:
        flip_bit(path, position)

        assert (ProblemKind.CHANGED, "manifest/000001.parquet") in problems(output)
        flip_bit(path, position)
    assert problems(output) == Counter()


@ALL_LAYOUTS
def test_missing_image(output: Path, layout: str) -> None:
    (output / an_image(output, layout)).unlink()

    assert problems(output) == {(ProblemKind.MISSING_FILE, an_image(output, layout)): 1}


@FILES_OR_PACKED
def test_missing_manifest(output: Path, layout: str) -> None:
    (output / "manifest/000001.parquet").unlink()

    found = problems(output)

    assert found[ProblemKind.MISSING_FILE, "manifest/000001.parquet"] == 1
    assert found[ProblemKind.MISSING_ROW, "manifest"] == 1


@FILES_OR_PACKED
@pytest.mark.parametrize(
    "stray",
    ["images/other.png", "data/000009.parquet", "manifest/000009.parquet", "core", ".hidden"],
)
def test_stray_file(output: Path, layout: str, stray: str) -> None:
    (output / stray).parent.mkdir(exist_ok=True)
    (output / stray).write_bytes(b"stray")

    assert problems(output) == {(ProblemKind.STRAY_FILE, stray): 1}


@FILES_OR_PACKED
@pytest.mark.parametrize("removed", [0, 1], ids=["of a failure", "of an image"])
def test_missing_row(output: Path, layout: str, removed: int) -> None:
    path = output / "manifest/000000.parquet"
    table = pq.read_table(path)
    rest = [number for number in range(table.num_rows) if number != removed]
    pq.write_table(table.take(pa.array(rest)), path)

    found = problems(output)

    assert found[ProblemKind.MISSING_ROW, "manifest"] == 1
    assert found[ProblemKind.CHANGED, "manifest/000000.parquet"] == 1


@FILES_OR_PACKED
def test_repeated_row(output: Path, layout: str) -> None:
    path = output / "manifest/000000.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(1, 1)]), path)

    found = problems(output)

    assert found[ProblemKind.REPEATED_ROW, "manifest"] == 1


@FILES_OR_PACKED
def test_run_that_has_not_ended(output: Path, layout: str) -> None:
    run_json = output / "run.json"
    run_json.write_text(run_json.read_text().replace('"complete": true', '"complete": false'))

    assert problems(output) == {(ProblemKind.INCOMPLETE, "run.json"): 1}


@FILES_OR_PACKED
def test_telemetry_is_not_looked_at(output: Path, layout: str) -> None:
    for path in (output / "telemetry").iterdir():
        path.unlink()

    assert problems(output) == Counter()


@FILES_OR_PACKED
def test_dataset_may_be_moved(output: Path, layout: str) -> None:
    moved = output.rename(output.parent / "moved")

    assert problems(moved) == Counter()
