import dataclasses
import pickle

from input_states import known

from beam_upscale.pipeline.run_state.input_state import (
    InputState,
    ListingEntry,
    fingerprint,
    is_as_listed,
    state_of,
    with_state,
    without_data,
)
from beam_upscale.sources.inputs.source_image import SourceImage

LISTED = SourceImage("a", uri="/in/a.png", name="a.png", columns={"label": "cat"}, shard=0)
STATE = InputState(listed=ListingEntry("000000-part", LISTED), is_postponed=True)


def test_nothing_is_known_of_an_input_that_a_user_makes() -> None:
    assert LISTED.run_state is None
    assert state_of(LISTED) == InputState()


def test_what_is_known_travels_with_an_input_that_a_user_changes() -> None:
    image = with_state(LISTED, STATE)

    changed = dataclasses.replace(image, data=b"other bytes", columns={})

    assert state_of(changed) is STATE
    assert state_of(pickle.loads(pickle.dumps(changed))) == STATE
    assert "run_state" not in repr(changed)


def test_an_input_without_bytes_is_copied_only_for_another_state() -> None:
    image = with_state(LISTED, STATE)
    held = dataclasses.replace(LISTED, data=b"bytes")

    assert without_data(image, STATE) is image
    assert without_data(LISTED, state_of(LISTED)) is LISTED
    assert without_data(LISTED, STATE) == image
    assert without_data(held, STATE) == image


def test_an_input_is_as_listed_until_a_step_changes_it() -> None:
    image = with_state(LISTED, STATE)

    assert is_as_listed(image)
    assert is_as_listed(dataclasses.replace(image, columns={"label": "cat"}))
    assert not is_as_listed(dataclasses.replace(image, columns={"label": "dog"}))
    assert not is_as_listed(dataclasses.replace(image, data=b"bytes"))
    assert not is_as_listed(known(image, data_sha256="of bytes that are dropped"))
    assert not is_as_listed(LISTED)


def test_a_fingerprint_is_of_the_input_and_not_of_what_is_known_of_it() -> None:
    held = dataclasses.replace(LISTED, data=b"bytes")
    digest = "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"

    assert fingerprint(with_state(LISTED, STATE)) == fingerprint(LISTED)
    assert fingerprint(held) != fingerprint(LISTED)
    assert fingerprint(known(LISTED, data_sha256=digest)) == fingerprint(held)
