"""What becomes of an input before any network sees it."""

import dataclasses
import errno
import hashlib
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from input_states import committed, earlier_record, known
from one_image import LATENT, encoded, oversized, prepared, row_of, source, upscale
from PIL import Image

from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ErrorCode
from beam_upscale.images.decoding.child_process import Child, Exchange
from beam_upscale.images.encoding.pool import shared_encoders
from beam_upscale.inference.elements import Inference
from beam_upscale.pipeline.one_image import prepare
from beam_upscale.pipeline.one_image.finish import finish
from beam_upscale.pipeline.run_state.input_state import (
    Allowance,
    EarlierResult,
    ListingEntry,
    state_of,
)
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.parameters import Parameters
from beam_upscale.sources.inputs.source_image import SourceImage, source_image


def outcome(source: SourceImage, settings: PinnedSettings) -> Row:
    """The row of an input for which there is nothing to do for the network."""
    tiled = prepared(source, settings)
    assert not tiled.tiles
    result = finish(tiled.context, Inference(), settings, shared_encoders())
    assert result.data is None
    row = row_of(result)
    assert (row.credits, row.usd, row.calls, row.output_uri) == (0, 0, 0, None)
    return row


def test_bad_bytes_are_a_row_with_a_code(settings: PinnedSettings) -> None:
    row = outcome(source(b"a text file"), settings)

    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.NOT_AN_IMAGE)
    assert row.error_message
    assert row.source_sha256 == hashlib.sha256(b"a text file").hexdigest()


def test_half_a_picture_is_a_row_with_what_its_header_says(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    data = encoded(photograph(0, 400, 300), "JPEG")

    row = outcome(source(data[: len(data) // 2]), settings)

    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.TRUNCATED)
    assert (row.input_width, row.input_height, row.input_format) == (400, 300, "jpeg")


def test_bytes_are_passed_to_a_decoder_once(
    settings: PinnedSettings,
    photograph: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, asked, passed = encoded(photograph(0, 40, 30)), [], []
    ask = Child.ask

    def asking(child: Child, exchange: Exchange, receive: Any) -> Any:
        asked.append(exchange.request["request"])
        passed.extend(exchange.files)
        return ask(child, exchange, receive)

    monkeypatch.setattr(Child, "ask", asking)

    prepared(source(data), settings)

    assert asked == ["header", "decode"]
    assert passed == [data]


def test_a_missing_file_is_a_row(settings: PinnedSettings) -> None:
    row = outcome(source_image("/no/such/file.png"), settings)

    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.NOT_FOUND)
    assert row.source_sha256 is None


def test_a_file_too_large_is_not_read(pin: Callable[..., PinnedSettings], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x" * 101)

    row = outcome(source_image(str(tmp_path / "a.png")), pin(max_input_bytes=100))

    assert (row.status, row.error_code) == (Status.REJECTED, ErrorCode.FILE_TOO_LARGE)
    assert "101 bytes; at most 100" in (row.error_message or "")
    assert row.source_sha256 is None


def test_an_oversized_picture_is_rejected(settings: PinnedSettings) -> None:
    row = outcome(source(encoded(Image.fromarray(oversized()))), settings)

    assert (row.status, row.error_code) == (Status.REJECTED, ErrorCode.INPUT_TOO_LARGE)


def test_a_picture_that_is_large_enough_is_skipped(
    pin: Callable[..., PinnedSettings], photograph: Callable[..., Image.Image]
) -> None:
    row = outcome(source(encoded(photograph())), pin(min_side=30))

    assert (row.status, row.error_code) == (Status.SKIPPED, None)
    assert "--min-side" in row.notes[0]


def test_an_animation_is_rejected_where_that_is_asked_for(
    pin: Callable[..., PinnedSettings], photograph: Callable[..., Image.Image]
) -> None:
    frames = [photograph(1), photograph(2)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    row = outcome(source(data), pin(animated="reject"))

    assert (row.status, row.error_code) == (Status.REJECTED, ErrorCode.ANIMATED)
    assert upscale(source(data), pin()).data is not None


def test_what_the_budget_does_not_reach_is_a_row(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    data = encoded(photograph())

    row = outcome(
        known(source(data), allowance=Allowance(Decimal(1), is_within_budget=False)), settings
    )

    assert (row.status, row.error_code) == (Status.OVER_BUDGET, ErrorCode.OVER_BUDGET)
    assert "0.2 credits" in (row.error_message or "")


def test_what_costs_more_than_when_it_was_priced_is_over_the_budget(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    data = encoded(photograph())

    unreadable_then = outcome(known(source(data), allowance=Allowance(Decimal(0))), settings)
    as_then = upscale(known(source(data), allowance=Allowance(Decimal("0.2"))), settings)

    assert unreadable_then.error_code == ErrorCode.OVER_BUDGET
    assert as_then.data is not None


def test_what_would_cost_nothing_is_never_over_the_budget(settings: PinnedSettings) -> None:
    assert (
        outcome(
            known(source(b""), allowance=Allowance(Decimal(1), is_within_budget=False)), settings
        ).error_code
        == ErrorCode.EMPTY_FILE
    )


def test_a_postponed_input_has_no_row(settings: PinnedSettings) -> None:
    tiled = prepared(known(source(b"not looked at"), is_postponed=True), settings)

    result = finish(tiled.context, Inference(), settings, shared_encoders())

    assert (tiled.tiles, result.record, result.data) == ((), None, None)


def test_what_was_done_before_keeps_its_record(settings: PinnedSettings) -> None:
    digest = hashlib.sha256(b"not looked at").hexdigest()
    row = Row("a", "a", Status.FAILED, source_sha256=digest, error_code="kept")
    earlier = Record(row, None)

    tiled = prepared(known(source(b"not looked at"), earlier=EarlierResult(earlier)), settings)
    result = finish(tiled.context, Inference(), settings, shared_encoders())

    assert (tiled.tiles, result.record, result.data) == ((), earlier, None)


@pytest.mark.parametrize(
    ("before", "now", "holds"),
    [
        ({"max_input_pixels": 1000}, {"max_input_pixels": 1000}, True),
        ({"max_input_pixels": 1000}, {"max_input_pixels": 1001}, False),
        ({"max_input_pixels": 1000}, {"max_input_pixels": 10**9}, False),
        ({"max_input_pixels": 1000}, {"max_input_pixels": None}, False),
        ({"oversize": "reject"}, {"oversize": "reject"}, True),
        ({"oversize": "reject"}, {"oversize": "reject", "max_input_pixels": 1000}, False),
        ({"oversize": "reject"}, {"oversize": "tile"}, False),
        ({"oversize": "reject"}, {"oversize": "shrink"}, False),
    ],
)
def test_what_the_rules_refused_is_kept_while_they_say_the_same(
    pin: Callable[..., PinnedSettings], before: dict[str, Any], now: dict[str, Any], holds: bool
) -> None:
    image = source(encoded(Image.new("RGB", (1100, 1000))))
    earlier = Record(outcome(image, pin(**before)), None)
    refused = known(image, earlier=committed(earlier))

    tiled, anew = (prepared(each, pin(**now)) for each in (refused, image))

    found = state_of(tiled.context.source).earlier
    assert (found is not None and found.record is earlier and found.is_committed) == holds
    assert (found is None) != holds
    assert len(tiled.tiles) == (0 if holds else len(anew.tiles))


@pytest.mark.parametrize(
    ("options", "words", "mended"),
    [
        ({}, "takes at most", "accepts no more than"),
        ({"oversize": "tile", "halo": 2000}, "no tile of", "no piece of"),
        ({"max_input_pixels": 1000}, "are not decoded", "are never decoded"),
    ],
)
def test_what_the_rules_refused_is_kept_though_the_words_of_its_message_are_mended(
    pin: Callable[..., PinnedSettings], options: dict[str, Any], words: str, mended: str
) -> None:
    image, settings = source(encoded(Image.new("RGB", (1100, 1000)))), pin(**options)
    row = outcome(image, settings)
    assert words in (row.error_message or "")
    message = (row.error_message or "").replace(words, mended)
    earlier = Record(dataclasses.replace(row, error_message=message), None)

    tiled = prepared(known(image, earlier=committed(earlier)), settings)

    assert earlier_record(tiled.context.source) == earlier


def test_another_error_of_the_system_is_a_failed_row(
    settings: PinnedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(SourceImage, "read", fail)

    tiled = prepared(source(b"not looked at"), settings)

    assert (
        row_of(finish(tiled.context, Inference(), settings, shared_encoders())).error_code
        == "internal_error"
    )


@pytest.mark.parametrize("step", ["_still_stands", "_add_parameters", "_add_content", "_decoded"])
def test_mistake_while_an_input_is_prepared_is_its_row(
    step: str,
    settings: PinnedSettings,
    photograph: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("a mistake")

    picture = source(encoded(photograph()))
    earlier = Record(Row("a", "a", Status.UPSCALED), telemetry=None)
    monkeypatch.setattr(prepare, step, fail)

    tiled = prepared(
        known(picture, earlier=EarlierResult(earlier)) if step == "_still_stands" else picture,
        settings,
    )

    row = row_of(finish(tiled.context, Inference(), settings, shared_encoders()))
    assert row.error_code == "internal_error"
    assert "a mistake in beam-upscale, not in the file: KeyError" in str(row.error_message)


def test_bytes_that_a_step_puts_in_their_place_are_done_whatever_was_done_before(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    data = encoded(photograph())
    row = Row("a", "a", Status.UPSCALED, source_sha256=hashlib.sha256(data).hexdigest())
    before = known(source(data), earlier=committed(Record(row, None)))
    changed = dataclasses.replace(before, data=encoded(photograph(1)))

    kept, done = (prepared(each, settings) for each in (before, changed))

    assert (kept.tiles, len(done.tiles)) == ((), 1)
    assert state_of(done.context.source).earlier is None
    assert (done.context.source.data, state_of(done.context.source).data_sha256) == (
        None,
        hashlib.sha256(changed.data or b"").hexdigest(),
    )


def test_a_prompt_that_a_step_gives_is_asked_for_whatever_was_done_before() -> None:
    pinned = UpscaleSettings.of(LATENT, backend="grpc", endpoint="localhost:1").pin()
    picture = encoded(Image.new("RGB", (8, 8)))
    listed = source(picture, columns={"prompt": "a cat", "seed": 7})
    asked = dataclasses.asdict(Parameters(prompt="a cat", seed=7))
    row = Row("a", "a", Status.UPSCALED, source_sha256=listed.sha256(), **asked)
    before = known(
        dataclasses.replace(listed, data=None, uri="/nowhere/a.png"),
        earlier=EarlierResult(Record(row, None)),
        listed=ListingEntry("part", listed),
    )

    def outcome(**columns: Any) -> object:
        changed = dataclasses.replace(before, columns={**listed.columns, **columns})
        return earlier_record(prepared(changed, pinned).context.source)

    assert outcome() is not None
    assert outcome(label="new") is not None
    assert outcome(prompt="a dog") is None
    assert outcome(steps=51) is None


def test_every_call_can_be_told_from_those_of_other_inputs(remote: PinnedSettings) -> None:
    data = encoded(Image.new("L", (1500, 1000)))

    first, second = (prepared(SourceImage(name, data=data), remote) for name in ("a", "b"))

    assert len(first.tiles) > 1
    assert (first.identity, second.identity) == (("a", 0), ("b", 0))
