"""Image files that nobody here made, against what other decoders make of them."""

import hashlib
import io
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import archives
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageOps
from runs import rows

from beam_upscale.errors import ImageError
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.processes.child import usable_cores
from beam_upscale.images.reading import identification
from beam_upscale.images.values import DecodedImage

pytestmark = pytest.mark.slow

ENDINGS = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif"),
        *(".avifs", ".heic", ".heif"),
    }
)
LEAST_FILES = 500
MAX_PIXELS = 100_000_000

_BY_PROFILE = "CMYK, converted by its profile; Pillow passes over that"
_RAW = "a camera raw file, of which Pillow gives the preview"
_ASSOCIATED = "color is divided by alpha; tifffile leaves it multiplied"

EXPLAINED = {
    "094-go-aqua-cmyk.tiff": _BY_PROFILE,
    "106-cmyk.jpg": _BY_PROFILE,
    "107-pizza-cmyk8-usswop.jpg": _BY_PROFILE,
    "466-1402522741337.jpg": _BY_PROFILE,
    "350-sample.cr2": _RAW,
    "351-sample.dng": _RAW,
    "352-sample.nef": _RAW,
    "370-corrupt.jpg": "a bad Huffman code, behind which Pillow makes pixels up",
    "515-TransparencyTestStripAssociated.tif": _ASSOCIATED,
    "517-TransparencyTestTileAssociated.tif": _ASSOCIATED,
    "551-IndexColorPaletteTiled.tif": "two tiles to spare, which Pillow puts over the first ones",
    "558-USGS_13_n38w077_dir5.tiff": "heights in meters as float samples, which are no picture",
}
"""Why samples are not those of Pillow or tifffile, or why a file that Pillow reads is refused."""


def is_image(name: str, data: bytes) -> bool:
    """Whether it is one by its name or its first bytes."""
    if PurePosixPath(name).suffix.lower() in ENDINGS:
        return True
    try:
        identification.identify(data)
    except ImageError:
        return False
    return True


def files() -> Iterator[tuple[str, bytes]]:
    """Each image in the archives once, by the end of its name."""
    seen = set()
    for archive in archives.listed():
        for name, data in archives.members(archive):
            digest = hashlib.sha256(data).hexdigest()
            if digest not in seen and is_image(name, data):
                seen.add(digest)
                yield f"{len(seen):03}-{PurePosixPath(name).name}", data


@pytest.fixture(scope="module")
def corpus() -> dict[str, bytes]:
    """All files, by names that tell them apart."""
    archives.fetch()
    return dict(files())


def by_pillow(data: bytes) -> np.ndarray | None:
    """The samples of the first picture, upright, in gray or RGB with or without alpha."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
    except Exception:  # What Pillow raises on odd files is any error.
        return None
    if picture.mode in ("P", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode in ("1", "CMYK", "YCbCr"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    return np.atleast_3d(np.asarray(picture))


def by_tifffile(data: bytes) -> np.ndarray | None:
    """The samples of a TIFF that needs no codec and no conversion, upright as most are."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page = tiff.pages.first
            samples = page.asarray()
            orientation = page.tags.valueof("Orientation", 1)
    except Exception:  # Likewise; of its decompressors, most are not installed.
        return None
    if page.photometric not in (0, 1, 2) or orientation != 1:
        return None
    if page.planarconfig == 2 and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    if samples.dtype not in (np.uint8, np.uint16) or page.bitspersample not in (8, 16):
        return None
    if page.photometric == 0:
        samples = np.iinfo(samples.dtype).max - samples
    return np.atleast_3d(samples)


def difference(decoded: DecodedImage, samples: np.ndarray) -> str:
    """How another decoder's samples differ; empty where they agree within one level of 8 bits."""
    color, alpha = decoded.color, decoded.alpha
    bands = samples.shape[2]
    theirs, their_alpha = samples[..., : bands - (bands in (2, 4))], None
    if bands in (2, 4):
        their_alpha = samples[..., -1]
    if color.shape[:2] != theirs.shape[:2]:
        return f"{color.shape[1]} x {color.shape[0]}, there {theirs.shape[1]} x {theirs.shape[0]}"
    if (alpha is None) != (their_alpha is None):
        only = their_alpha if alpha is None else alpha
        return "" if only.min() == np.iinfo(only.dtype).max else "only one has alpha"
    worst = apart(color, theirs)
    if alpha is not None and their_alpha is not None:
        worst = max(worst, apart(alpha, their_alpha))
    return "" if worst <= 1 else f"by {worst} levels"


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two pictures, in levels of 8 bits."""
    depths = [257 if each.dtype == np.uint16 else 1 for each in (ours, theirs)]
    if depths == [257, 1]:
        # Who reduces takes the upper byte.
        ours, depths = (ours >> 8).astype(np.uint8), [1, 1]
    values = [
        each.astype(np.float32) / depth for each, depth in zip((ours, theirs), depths, strict=True)
    ]
    return float(np.abs(values[0] - values[1]).max())


def found_out(pool: DecoderPool, data: bytes) -> str:
    """What tells a file from what other decoders make of it: a refusal or a difference."""
    try:
        decoded = pool.decode(data, max_pixels=MAX_PIXELS)
    except ImageError as error:
        return "" if by_pillow(data) is None else f"refused: {error}"
    found = {}
    for name, read in (("Pillow", by_pillow), ("tifffile", by_tifffile)):
        samples = read(data) if name == "Pillow" or decoded.header.format == "tiff" else None
        if samples is not None and (differs := difference(decoded, samples)):
            found[name] = differs
    return ", ".join(f"{name} {differs}" for name, differs in found.items())


def test_samples_are_those_of_other_decoders(corpus: dict[str, bytes]) -> None:
    pillow_heif.register_heif_opener()
    cores = usable_cores()
    with (
        warnings.catch_warnings(),
        DecoderPool(cores) as pool,
        ThreadPoolExecutor(cores) as threads,
    ):
        warnings.simplefilter("ignore")
        results = threads.map(lambda data: found_out(pool, data), corpus.values())
        found = {name: what for name, what in zip(corpus, results, strict=True) if what}

    assert len(corpus) >= LEAST_FILES
    assert {name: what for name, what in found.items() if name not in EXPLAINED} == {}
    assert set(EXPLAINED) <= set(found)


def test_each_file_is_a_row(corpus: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, data in corpus.items():
        (tmp_path / "in" / name).write_bytes(data)
    command = [sys.executable, "-m", "beam_upscale", "run", tmp_path / "in", tmp_path / "out"]

    finished = subprocess.run(
        [*command, "--weights", "nearest", "--workers", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr[-3000:]
    codes = Counter(row.error_code for row in rows(tmp_path / "out").values())
    assert codes.total() == len(corpus)
    assert not {"internal_error", "decoder_crashed", "decoder_timeout", "encode_error"} & set(codes)
