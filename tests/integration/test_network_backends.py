"""The library that runs a network is chosen once, written down, and kept."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import command, quick, upscale
from safetensors.torch import save_file
from small_networks import esrgan

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import COLUMNS, STAGE
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError


@pytest.fixture
def inputs(tmp_path: Path, photograph) -> Path:  # type: ignore[no-untyped-def]
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        photograph(number).save(folder / f"{number}.png")
    return folder


def recorded(output: Path) -> str | None:
    values = json.loads((output / "run.json").read_text())
    found: str | None = values["settings"]["stages"][0]["model"].get("network_backend")
    return found


def backends(output: Path) -> dict[str, str | None]:
    table = pq.read_table(output / "manifest", columns=["input_id", "network_backend"])
    return {Path(row["input_id"]).name: row["network_backend"] for row in table.to_pylist()}


def made_earlier(output: Path) -> None:
    """Makes an output one of a version that had PyTorch only, and wrote nothing of it."""
    values = json.loads((output / "run.json").read_text())
    del values["version"]
    del values["settings"]["stages"][0]["model"]["network_backend"]
    (output / "run.json").write_text(json.dumps(values))
    for path in (output / "manifest").glob("*.parquet"):
        table = pq.ParquetFile(path).read().drop_columns("network_backend")
        fields = [field for field in STAGE if field.name != "network_backend"]
        number = table.schema.get_field_index("stages")
        stages = table["stages"].cast(pa.list_(pa.struct(fields)))
        pq.write_table(table.set_column(number, "stages", stages), path)


@pytest.mark.parametrize("layout", [Layout.FILES, Layout.PARQUET])
def test_an_output_of_a_version_with_pytorch_only_goes_on_with_it(
    inputs: Path, tmp_path: Path, tiny_weights: Path, layout: Layout
) -> None:
    output, moved = tmp_path / "out", tmp_path / "2.png"
    (inputs / "2.png").rename(moved)
    upscale(inputs, output, tiny_weights, network_backend="torch", layout=layout, shard_rows=1)
    made_earlier(output)
    moved.rename(inputs / "2.png")

    with pytest.raises(SettingsError, match=r"network_backend: torch -> openvino"):
        upscale(
            inputs, output, tiny_weights, network_backend="openvino", layout=layout, shard_rows=1
        )
    result = upscale(inputs, output, tiny_weights, layout=layout, shard_rows=1)

    assert result.totals.rows == 3
    assert recorded(output) == "torch"
    # What an earlier version did not write down is not made up.
    assert sorted(map(str, backends(output).values())) == ["None", "None", "torch"]
    for path in (output / "manifest").glob("*.parquet"):
        schema = pq.read_schema(path)
        assert schema.remove(schema.get_field_index("input")).equals(COLUMNS)
    assert list(verify(str(output))) == []


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_rerun_keeps_what_auto_came_to(
    backend: str, inputs: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "out"
    upscale(inputs, output, tiny_weights, network_backend=backend)
    (inputs / "0.png").rename(inputs / "3.png")

    upscale(inputs, output, tiny_weights)

    assert recorded(output) == backend
    assert backends(output) == dict.fromkeys(["0.png", "1.png", "2.png", "3.png"], backend)


def test_the_command_says_what_it_runs_a_network_with(
    inputs: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    torch = command(
        "run", inputs, tmp_path / "a", *quick(tiny_weights), "--network-backend", "torch"
    )
    auto = command("run", inputs, tmp_path / "b", *quick(tiny_weights))

    assert "on cpu in fp32 by PyTorch" in torch.err
    assert "on cpu in fp32 by OpenVINO" in auto.err


def test_a_network_that_openvino_does_not_run_here_is_refused_by_name(
    inputs: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "plus.safetensors"
    save_file({n: v.contiguous() for n, v in esrgan(plus=True).state_dict().items()}, weights)

    with pytest.raises(SettingsError, match="ESRGAN and Compact") as caught:
        upscale(inputs, tmp_path / "out", weights, network_backend="openvino")

    assert caught.value.code is ErrorCode.NETWORK_BACKEND_UNAVAILABLE
