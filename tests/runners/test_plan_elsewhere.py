"""A plan that another runner makes is that of the runner in this process."""

from pathlib import Path

import clusters
import pytest
from test_runners import BEAM_UPSCALE, run_as_user

from beam_upscale.pipeline.preview import read_preview

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("cluster", ["prism"], indirect=True)
def test_a_plan_with_a_budget_is_that_of_the_runner_in_this_process(
    tmp_path: Path, cluster: clusters.Cluster, photographs: Path
) -> None:
    folders = {name: tmp_path / name for name in ("here", "there")}
    for name, options in (("here", []), ("there", ["--", *cluster.options])):
        run_as_user(
            tmp_path / f"{name}-elsewhere",
            *(BEAM_UPSCALE, "plan", photographs, "--max-credits", "7.3", "--to", folders[name]),
            *options,
        )

    here, there = (list(read_preview(str(folder))) for folder in folders.values())
    assert there == here
    assert len(here) == 200
    assert sum(image.status == "over_budget" for image in here) > 100
