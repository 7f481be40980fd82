from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
import runs
import serving
from PIL import Image
from serving import DIFFUSION, ENGINE, broken, chain, png, request

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.images.decoding.child_process import Child, Exchange
from beam_upscale.images.decoding.pool import DEFAULT_TIMEOUT_SECONDS
from beam_upscale.server.refusals import RefusedError
from beam_upscale.server.requests import decode_chain, decode_request
from beam_upscale.server.worker import Priced, Worker


def priced(worker: Worker, message: Any) -> Priced:
    data = message.SerializeToString()
    is_chain = isinstance(message, generation.ChainRequest)
    return worker.price((decode_chain if is_chain else decode_request)(data, worker.engines))


def refusal(action: Callable[[], Any]) -> Any:
    with pytest.raises(RefusedError) as caught:
        action()
    return caught.value.refusal


def pipeline(
    tmp_path: Path, picture: Image.Image, weights: Any, engine: Any, **options: Any
) -> Any:
    """The bytes and the row that a run leaves of a picture."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.png").write_bytes(png(picture))
    runs.upscale(source, output, weights, engine=engine, **options)
    return (output / "images" / "a.png").read_bytes(), runs.rows(output)["a.png"]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_results_are_the_pipelines_to_the_byte(
    worker: Worker, photograph: Callable[..., Image.Image], tmp_path: Path,
    tiny_weights: Path, mode: str,
) -> None:  # fmt: skip
    picture = photograph(mode=mode)

    upscaled = worker.upscale(priced(worker, request(png(picture), width=50)))

    data, row = pipeline(tmp_path, picture, tiny_weights, ENGINE, width=50)
    assert upscaled.data == data
    assert (upscaled.row.credits, upscaled.row.output_sha256) == (row.credits, row.output_sha256)


def test_diffusion_and_chains_are_the_pipelines_to_the_byte(
    both_engines: Worker, photograph: Callable[..., Image.Image], tmp_path: Path,
    tiny_weights: Path, tiny_pipeline: Path,
) -> None:  # fmt: skip
    picture = photograph(width=24, height=16)
    first = request(png(picture))
    step = generation.StepParameter(sampler=generation.SamplerParameters(cfg_scale=7.3))
    second = generation.Request(
        engine_id=DIFFUSION,
        prompt=[generation.Prompt(text="a cat")],
        image=generation.ImageParameters(steps=3, parameters=[step], height=80),
    )

    call = priced(both_engines, chain(first, second))
    upscaled = both_engines.upscale(call)

    weights = {ENGINE: str(tiny_weights), DIFFUSION: str(tiny_pipeline)}
    options = {"prompt": "a cat", "steps": 3, "cfg_scale": 7.3, "height": 80}
    data, row = pipeline(tmp_path, picture, weights, (ENGINE, DIFFUSION), **options)
    assert upscaled.data == data
    assert upscaled.row.seed == row.seed != 0
    assert call.credits == upscaled.row.credits == row.credits == Decimal("8.2")


def test_baselines_are_the_pipelines_to_the_byte(
    photograph: Callable[..., Image.Image], tmp_path: Path
) -> None:
    worker = serving.load({ENGINE: "bicubic", DIFFUSION: "nearest"}, ENGINE, DIFFUSION)
    picture = photograph(mode="RGBA")

    upscaled = worker.upscale(priced(worker, request(png(picture), width=50)))

    worker.close()
    data, row = pipeline(tmp_path, picture, {ENGINE: "bicubic"}, ENGINE, width=50)
    assert upscaled.data == data
    assert upscaled.row.model == row.model == "bicubic (baseline, no network)"
    assert worker.engines_in_words[1] == "nearest (baseline, no network) on cpu"


def test_the_header_tells_the_price(worker: Worker, image: bytes) -> None:
    found = priced(worker, request(image))

    assert found.credits == Decimal("0.2")
    assert (found.header.width, found.header.height) == (40, 30)


def test_decoding_has_far_less_time_than_in_a_run(worker: Worker) -> None:
    hurried = Worker(list(worker._networks.values()), 2.5)

    assert worker._decoders._timeout_seconds == 30 < DEFAULT_TIMEOUT_SECONDS
    assert hurried._decoders._timeout_seconds == 2.5


def test_an_image_beyond_the_limit_is_told_both_numbers(worker: Worker) -> None:
    found = refusal(lambda: priced(worker, request(png(Image.new("L", (1024, 1025))))))

    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "1,049,600" in found.message and "1,048,576" in found.message
    assert found.error_code == "input_too_large"


def test_what_is_no_image_and_what_is_half_of_one_are_refused(worker: Worker, image: bytes) -> None:
    no_image = refusal(lambda: priced(worker, request(b"hello")))
    half = refusal(lambda: worker.upscale(priced(worker, request(image[: len(image) // 2]))))

    assert [no_image.error_code, half.error_code] == ["not_an_image", "truncated"]
    assert {no_image.code, half.code} == {grpc.StatusCode.INVALID_ARGUMENT}


def test_a_header_is_read_once(
    worker: Worker, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = Child.ask

    def asking(child: Child, exchange: Exchange, receive: Any) -> Any:
        asked.append(exchange.request["request"])
        return ask(child, exchange, receive)

    monkeypatch.setattr(Child, "ask", asking)

    worker.upscale(priced(worker, request(image)))

    assert asked == ["header", "decode"]


def test_a_network_that_fails_is_the_servers_fault(worker: Worker, image: bytes) -> None:
    failing = broken(worker, ImageError(ErrorCode.MODEL_ERROR, "the device is gone"))
    try:
        found = refusal(lambda: failing.upscale(priced(failing, request(image))))
    finally:
        failing.close()

    assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, None)
    assert found.message == "model_error: the device is gone"
