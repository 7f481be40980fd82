"""A completed dataset is completed again without a change."""

import dataclasses
from decimal import Decimal

import pytest
from holds import LEASE_SECONDS, everywhere

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.output_hold import hold_output
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import HoldLostError
from beam_upscale.pipeline.commit.completion import _completed


@everywhere
def test_a_completion_that_a_runner_repeats_gives_the_same(place: str) -> None:
    run_json = RunJson(layout="files", others={"mine": (Decimal("1.5"),)})
    with hold_output(place, in_this_process=True, lease_seconds=LEASE_SECONDS) as dataset:
        dataset.write_run(run_json)
        first = _completed(dataset, Layout.FILES, run_json)

        assert _completed(dataset, Layout.FILES, run_json) == first
        with pytest.raises(HoldLostError):
            _completed(dataset, Layout.FILES, dataclasses.replace(run_json, max_credits="1"))
