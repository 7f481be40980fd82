"""Uses the format lst and the layout zip; a program for a package that has them.

`python scenario.py FOLDER` lists, previews, writes, verifies and goes on, all in an empty folder.
"""

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

from PIL import Image
from runs import Finished, command, rows
from small_networks import noise

import beam_upscale as bu
import beam_upscale.yaml
from pipelines.dataflow import template


def main(folder: Path) -> None:
    """Goes through all that a format and a layout have to do with."""
    photos, output = folder / "photos.lst", folder / "out"
    for number in range(3):
        write_image(folder / f"{number}.png", 12 + number)
    photos.write_text("0.png\n1.png\n2.png\n")
    check_names()
    check_preview(photos)
    check_messages(folder)
    check_run(photos, output)
    check_rerun(photos, output)
    check_change(photos, output)
    check_damage(output)


def check_names() -> None:
    """Both have a name everywhere: in Python, in help texts, in Beam YAML, in a template."""
    form, layout = bu.InputFormat["LST"], bu.Layout["ZIP"]
    assert pickle.loads(pickle.dumps((form, layout))) == ("lst", "zip")
    helped = " ".join(command("run", "--help").out.split())
    assert "lists of paths (lst)" in helped and "zip archives (zip)" in helped
    beam_upscale.yaml.ReadImages("photos.lst", input_format="lst")
    beam_upscale.yaml.WriteDataset("upscaled", layout="zip")
    filled = template.filled(template.TEMPLATE.read_text())
    assert '"^(folder|jsonl|csv|parquet|lst|webdataset)$"' in filled
    assert '"^(files|parquet|zip|webdataset)$"' in filled


def check_preview(photos: Path) -> None:
    """The format is told by the ending, and may be named."""
    for words in ([], ["--input-format", "lst"]):
        previewed = command("plan", photos, "--json", *words)
        assert len(json.loads(previewed.out)["images"]) == 3


def check_messages(folder: Path) -> None:
    """Messages are made of what the definitions say."""
    empty = folder / "empty.lst"
    empty.touch()
    assert f"{empty} is a list without paths" in message_of(command("plan", empty))
    refused = command("plan", empty, "--image-column", "path")
    assert "is read as lst, which has no such column" in message_of(refused)


def check_run(photos: Path, output: Path) -> None:
    """Images are packed, verified, and described by the card."""
    assert run(photos, output).code == 0
    assert sizes_in(output) == [(20, 24), (20, 26), (20, 28)]
    assert [row.output_uri for row in rows(output).values()] == ["data/000000.zip"] * 3
    assert 'path: "data/*.zip"' in (output / "README.md").read_text()
    assert command("verify", output).code == 0
    refused = command("plan", output)
    assert f"name them: {output}/data/*.zip" in message_of(refused)


def check_rerun(photos: Path, output: Path) -> None:
    """A second run writes no image and no row again."""
    before = files_of(output)
    assert run(photos, output).code == 0
    assert files_of(output) == before


def check_change(photos: Path, output: Path) -> None:
    """An input that has changed is done again; the others are taken from the archive."""
    write_image(photos.with_name("0.png"), 15)
    assert run(photos, output).code == 0
    assert sizes_in(output) == [(20, 26), (20, 28), (20, 30)]
    assert command("verify", output).code == 0


def check_damage(output: Path) -> None:
    """Bytes that were changed are found."""
    archive = output / "data/000000.zip"
    archive.write_bytes(archive.read_bytes()[:-1])
    found = command("verify", output)
    assert found.code == 1 and "data/000000.zip" in found.out


def write_image(path: Path, height: int) -> None:
    Image.fromarray(noise(height, 10, 3)).save(path)


def run(photos: Path, output: Path) -> Finished:
    return command(
        *("run", photos, output, "--layout", "zip"),
        *("--weights", "nearest", "--device", "cpu", "--workers", "1"),
    )


def message_of(finished: Finished) -> str:
    assert finished.code != 0
    return " ".join(finished.err.split())


def files_of(output: Path) -> dict[str, tuple[bytes, int]]:
    """The bytes of each file with images or rows, and when it was written."""
    found = [*output.glob("data/*"), *output.glob("manifest/*")]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def sizes_in(output: Path) -> list[tuple[int, int]]:
    with zipfile.ZipFile(output / "data/000000.zip") as archive:
        images = [Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist()]
    return sorted(image.size for image in images)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
