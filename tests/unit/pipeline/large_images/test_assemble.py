"""Large images are assembled from the results of their tiles."""

from pathlib import Path
from typing import Any

import pytest
from runs import error_codes, upscale
from spread_runs import SPREAD

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.pipeline.large_images import assemble


def test_result_that_cannot_be_encoded_is_one_failed_row(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ImageError(ErrorCode.ENCODE_ERROR, "the encoder ends here")

    monkeypatch.setattr(assemble, "encode_rows", refuse)

    upscale(inputs / "[as]*", tmp_path / "out", tiny_weights, **SPREAD)

    assert error_codes(tmp_path / "out") == {
        "a.jpg": "encode_error",
        "alpha.png": "encode_error",
        "small.png": None,
        "strips.tif": "encode_error",
    }
