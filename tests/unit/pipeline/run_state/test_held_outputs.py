from pathlib import Path

import pytest

from beam_upscale.dataset.hold.hold import Hold, new_token
from beam_upscale.dataset.hold.owners import Kind
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.run_state.held_outputs import (
    add_writer,
    bind,
    output_of_pipeline,
    refuse_second_writer,
)


class Pipeline:
    """Stands for Beam's; only its identity matters."""


def test_transforms_of_a_pipeline_share_a_hold(tmp_path: Path) -> None:
    pipeline, output = Pipeline(), f"{tmp_path}/out"
    found = output_of_pipeline(pipeline, output, 600).hold

    assert found is not None
    assert found.lease_seconds == 600
    assert output_of_pipeline(pipeline, output).hold is found
    assert output_of_pipeline(Pipeline(), output).hold is not found


def test_transforms_that_request_different_leases_are_refused(tmp_path: Path) -> None:
    pipeline, output = Pipeline(), f"{tmp_path}/out"
    output_of_pipeline(pipeline, output, 600)

    with pytest.raises(SettingsError, match="lease_seconds is 30 here and 600") as refused:
        output_of_pipeline(pipeline, output, 30)
    assert refused.value.code is ErrorCode.INVALID_OPTION


def test_a_lease_that_comes_too_late_is_told_where_to_stand(tmp_path: Path) -> None:
    pipeline, output = Pipeline(), f"{tmp_path}/out"
    output_of_pipeline(pipeline, output)

    with pytest.raises(SettingsError, match=r"60 here and 30 .* in ReadImages\(output=\.\.\.\)"):
        output_of_pipeline(pipeline, output, 60)


def test_transforms_write_under_a_hold_that_was_taken_for_their_pipeline(tmp_path: Path) -> None:
    pipeline = Pipeline()
    hold = Hold(f"{tmp_path}/out", new_token(), Kind.LOCK, 30)
    bind(pipeline, hold)

    assert output_of_pipeline(pipeline, hold.root).hold is hold


def test_an_output_has_one_writer_in_a_pipeline(tmp_path: Path) -> None:
    pipeline = Pipeline()
    output = output_of_pipeline(pipeline, f"{tmp_path}/out")
    refuse_second_writer(pipeline, output)
    add_writer(pipeline, output)

    with pytest.raises(SettingsError, match="two WriteDataset have the output") as refused:
        refuse_second_writer(pipeline, output)
    assert refused.value.code is ErrorCode.INVALID_OPTION
    refuse_second_writer(pipeline, output_of_pipeline(pipeline, f"{tmp_path}/other"))
    refuse_second_writer(Pipeline(), output)
