"""Pipelines in Beam YAML, built and run as `python -m apache_beam.yaml.main` does."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import runs
import yaml
from apache_beam.portability.api import schema_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.yaml import main
from apache_beam.yaml.yaml_provider import InlineProvider, load_providers
from PIL import Image
from places import ROOT

from beam_upscale.dataset.manifest.row import COLUMNS, Status
from beam_upscale.dataset.verify import verify
from beam_upscale.pipeline.beam_yaml import PROVIDERS, ReadImages, Upscale, WriteDataset

PIPELINE = ROOT / "pipelines" / "upscale.yaml"

# Beam's default looks for another runner's binary on the network first.
RUNNER = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"

LISTING = f"providers: [{{include: {json.dumps(str(PROVIDERS))}}}]"


@pytest.fixture
def photographs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Pictures of 20 to 24 pixels' width with a score and a license, and a file that is none."""
    folder = tmp_path / "in"
    folder.mkdir()
    metadata = []
    for number, mode in enumerate(["RGB", "L", "RGBA", "RGB", "P"]):
        photograph(number, 20 + number, 16, mode).save(folder / f"{number}.png")
        metadata.append({"file_name": f"{number}.png", "score": number / 4, "license": "CC0"})
    (folder / "torn.png").write_bytes(b"no image")
    text = "\n".join(map(json.dumps, metadata))
    (folder / "metadata.jsonl").write_text(text)
    return folder


@pytest.fixture
def quick(tiny_weights: Path) -> dict[str, Any]:
    """Options of `Upscale` for a small network on a CPU."""
    return {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32", "threads": 1}


def step(kind: str, **config: Any) -> dict[str, Any]:
    return {"type": kind, "config": config}


def pipeline_of(*steps: dict[str, Any]) -> str:
    """A pipeline of one step after the other, with the listing that the package has with it."""
    # JSON is YAML; steps of one kind are told apart by their lines.
    chain = json.dumps({"type": "chain", "transforms": steps}, indent=1)
    return f"pipeline: {chain}\n{LISTING}\n"


def run_pipeline(*steps: dict[str, Any]) -> None:
    main.run([f"--yaml_pipeline={pipeline_of(*steps)}", RUNNER])


def build(*steps: dict[str, Any]) -> beam.Pipeline:
    """The pipeline, not run."""
    options, construct = main.build_pipeline_components_from_yaml(
        pipeline_of(*steps), [], "generic", ""
    )
    pipeline = beam.Pipeline(runner=FnApiRunner(), options=options)
    construct(pipeline)
    return pipeline


def variables(photographs: Path, output: Path, quick: dict[str, Any], **others: Any) -> str:
    values = {"input": str(photographs), "output": str(output), "upscale": quick, **others}
    return f"--jinja_variables={json.dumps(values)}"


def assert_same_dataset(output: Path, expected: Path) -> None:
    """Byte for byte, but that a pipeline of one's own does not say how many rows a shard has."""
    ours, theirs = runs.tree(output), runs.tree(expected)
    del ours["run.json"], theirs["run.json"]
    assert ours == theirs
    our_run, their_run = (
        json.loads((folder / "run.json").read_text()) for folder in (output, expected)
    )
    assert our_run == {**their_run, "shard_rows": None}
    assert list(verify(str(output))) == []


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_pipeline_leaves_what_the_command_leaves(
    tmp_path: Path, photographs: Path, quick: dict[str, Any], tiny_weights: Path, layout: str
) -> None:
    runs.upscale(photographs, tmp_path / "run", tiny_weights, layout=layout, max_tile_pixels=200)

    main.run(
        [
            f"--yaml_pipeline_file={PIPELINE}",
            variables(
                photographs, tmp_path / "yaml", {**quick, "max_tile_pixels": 200}, layout=layout
            ),
            RUNNER,
        ]
    )

    assert_same_dataset(tmp_path / "yaml", tmp_path / "run")


@pytest.mark.slow
def test_pipeline_runs_as_beams_own_program(
    tmp_path: Path, photographs: Path, quick: dict[str, Any], tiny_weights: Path
) -> None:
    runs.upscale(photographs, tmp_path / "run", tiny_weights)
    program = [sys.executable, "-m", "apache_beam.yaml.main", f"--yaml_pipeline_file={PIPELINE}"]
    options = [variables(photographs, tmp_path / "yaml", quick), RUNNER]

    done = subprocess.run([*program, *options], cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-4000:]
    assert_same_dataset(tmp_path / "yaml", tmp_path / "run")


def test_same_pipeline_again_does_nothing_again(
    tmp_path: Path, photographs: Path, quick: dict[str, Any]
) -> None:
    program = [
        f"--yaml_pipeline_file={PIPELINE}",
        variables(photographs, tmp_path / "out", quick),
        RUNNER,
    ]
    main.run(program)
    before = runs.tree(tmp_path / "out")
    written = (tmp_path / "out/images/0.png").stat().st_mtime_ns

    main.run(program)

    assert runs.tree(tmp_path / "out") == before
    assert (tmp_path / "out/images/0.png").stat().st_mtime_ns == written


@pytest.mark.slow
def test_beams_own_steps_work_on_inputs_and_on_results(
    tmp_path: Path, photographs: Path, quick: dict[str, Any], tiny_weights: Path
) -> None:
    runs.upscale(photographs, tmp_path / "run", tiny_weights)
    output = tmp_path / "out"

    run_pipeline(
        step(
            "ReadImages",
            pattern=str(photographs),
            output=str(output),
            columns={"score": "number", "license": "string"},
        ),
        step("Filter", keep="score is not None and score > 0.3", language="python"),
        step(
            "MapToFields",
            append=True,
            drop=["columns_json"],
            language="python",
            fields={"percent": "int(score * 100)"},
        ),
        step("Upscale", **quick),
        step("Filter", keep="status == 'upscaled' and percent < 100", language="python"),
        step(
            "MapToFields",
            append=True,
            drop=["status", "input_id"],
            language="python",
            fields={"status": "'changed'", "free": "license == 'CC0'"},
        ),
        step("WriteDataset", output=str(output)),
        step(
            "MapToFields",
            language="python",
            fields={"upscaled": "upscaled", "failed": "failed", "credits": "str(credits)"},
        ),
        step("AssertEqual", elements=[{"upscaled": 2, "failed": 0, "credits": "0.4000"}]),
    )

    images = {path.name for path in (output / "images").iterdir()}
    assert images == {"2.png", "3.png"}
    for name in images:
        theirs = tmp_path / "run/images" / name
        assert (output / "images" / name).read_bytes() == theirs.read_bytes()
    found = runs.rows(output)
    assert {name: str(row.status) for name, row in found.items()} == {
        **dict.fromkeys(["0.png", "1.png", "4.png", "torn.png"], "filtered"),
        **dict.fromkeys(images, "upscaled"),
    }
    assert found["3.png"].input["score"] == 0.75


def test_results_can_be_summed_up_beside_the_dataset(
    tmp_path: Path, photographs: Path, quick: dict[str, Any]
) -> None:
    steps: list[dict[str, Any]] = [
        step("ReadImages", pattern=str(photographs)),
        {**step("Upscale", **quick), "input": "ReadImages"},
        {**step("WriteDataset", output=str(tmp_path / "out")), "input": "Upscale"},
        {
            **step(
                "MapToFields",
                language="python",
                fields={"status": "status", "pixels": "(output_width or 0)"},
            ),
            "input": "Upscale",
        },
        {
            **step("Combine", group_by="status", combine={"pixels": "sum"}),
            "input": "MapToFields",
        },
        {
            **step(
                "AssertEqual",
                elements=[
                    {"status": "upscaled", "pixels": 220},
                    {"status": "failed", "pixels": 0},
                ],
            ),
            "input": "Combine",
        },
    ]

    main.run([f"--yaml_pipeline=pipeline: {json.dumps({'transforms': steps})}\n{LISTING}", RUNNER])

    assert list(verify(str(tmp_path / "out"))) == []


def fused_stages(pipeline: beam.Pipeline) -> Iterator[list[str]]:
    """The names of the steps that a runner does one after the other, element by element."""
    _, stages = FnApiRunner().create_stages(pipeline.to_runner_api())
    for stage in stages:
        yield [transform.unique_name for transform in stage.transforms]


def test_images_cross_no_shuffle_between_our_steps_and_beams(
    tmp_path: Path, quick: dict[str, Any]
) -> None:
    pipeline = build(
        step("ReadImages", pattern=str(tmp_path), output=str(tmp_path / "out")),
        step("Filter", keep="input_id != 'a'", language="python"),
        step("Upscale", engine=["esrgan-v1-x2plus"] * 2, **quick),
        step("Filter", keep="output_width != 3", language="python"),
        step("MapToFields", append=True, fields={"two": 2}),
        step("WriteDataset", output=str(tmp_path / "out")),
    )

    (stage,) = [
        names
        for names in fused_stages(pipeline)
        if any("Upscale/Prepare" in name for name in names)
    ]

    assert any(re.search("ReadImages/.*FindEarlier", name) for name in stage)
    assert any(re.search("WriteDataset/Write/Persist", name) for name in stage)


# Of a result's row, as a portable schema has them; what may be null has a question mark.
FIELDS_BY_TYPE = {
    "STRING": "name columns_json",
    "STRING?": "input_id source_uri source_sha256 status error_code error_message engine backend "
    "model weights_sha256 device_type precision network_backend prompt negative_prompt "
    "input_format input_mode output_uri output_format output_sha256 label",
    "INT64?": "halo steps seed noise_level input_width input_height output_width output_height "
    "output_bytes calls votes",
    "DOUBLE?": "cfg_scale score",
    "BOOLEAN?": "is_good",
    "DECIMAL?": "credits billed_credits usd",
    "BYTES": "result",
    "BYTES?": "image",
    "ARRAY<STRING?>": "notes request_ids",
    "ARRAY<ROW>": "stages",
}

# The only type above that a schema has by a URN; the class SchemaTranslation of Beam's Java reads
# it as its own DECIMAL.
JAVA_BY_URN = {"beam:logical_type:decimal:v1": "DECIMAL"}


def portable_schema(rows: beam.PCollection[Any]) -> schema_pb2.Schema:
    """The schema of the coder that a pipeline has for these rows: what another language sees."""
    pipeline, context = rows.pipeline.to_runner_api(return_context=True)
    coder_id = pipeline.components.pcollections[context.pcollections.get_id(rows)].coder_id
    spec = pipeline.components.coders[coder_id].spec
    assert spec.urn == "beam:coder:row:v1"
    return schema_pb2.Schema.FromString(spec.payload)


def portable_type(kind: schema_pb2.FieldType) -> str:
    """A type of a schema in one word; fails where Java has none for it."""
    match kind.WhichOneof("type_info"):
        case "atomic_type":
            word = schema_pb2.AtomicType.Name(kind.atomic_type)
        case "array_type":
            word = f"ARRAY<{portable_type(kind.array_type.element_type)}>"
        case "row_type":
            word = "ROW"
        case "logical_type":
            word = JAVA_BY_URN[kind.logical_type.urn]
        case other:
            pytest.fail(f"a schema of ours has no {other}")
    return f"{word}?" if kind.nullable else word


def portable_types(schema: schema_pb2.Schema) -> dict[str, str]:
    return {field.name: portable_type(field.type) for field in schema.fields}


def test_rows_have_fields_of_types_that_sql_knows(tmp_path: Path, quick: dict[str, Any]) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    columns = {"score": "number", "label": "string", "votes": "integer", "is_good": "boolean"}
    images = pipeline | ReadImages(str(tmp_path), columns=columns)

    results = images | Upscale(**quick)

    schema = portable_schema(results)
    names = [field.name for field in schema.fields]
    assert names == [
        *COLUMNS.names,
        "name",
        "columns_json",
        *columns,
        "image",
        "result",
    ]
    expected = {name: kind for kind, names in FIELDS_BY_TYPE.items() for name in names.split()}
    assert portable_types(schema) == expected
    assert portable_types(portable_schema(images)) == {
        **dict.fromkeys(["input_id", "source_uri", "name", "columns_json"], "STRING"),
        **{name: expected[name] for name in columns},
        "source": "BYTES",
    }
    stage = schema.fields[names.index("stages")].type.array_type.element_type.row_type.schema
    of_stages = COLUMNS.field("stages").type.value_type
    assert [field.name for field in stage.fields] == of_stages.names
    assert portable_types(stage).items() <= expected.items()


def test_totals_have_fields_of_types_that_sql_knows(tmp_path: Path, quick: dict[str, Any]) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    results = pipeline | ReadImages(str(tmp_path)) | Upscale(**quick)

    totals = results | WriteDataset(str(tmp_path / "out"))

    numbers = ["rows", *Status, "calls", "output_bytes"]
    assert portable_types(portable_schema(totals)) == {
        **dict.fromkeys(numbers, "INT64"),
        **dict.fromkeys(["credits", "billed_credits", "usd"], "DECIMAL"),
    }


def test_size_is_a_list_and_weights_are_by_engine(tiny_weights: Path) -> None:
    upscale = Upscale(
        ["esrgan-v1-x2plus", "esrgan-v1-x2plus"],
        skip_larger_than=[640, 480],
        weights={"esrgan-v1-x2plus": str(tiny_weights)},
        device="cpu",
    )

    settings = upscale._upscale.settings
    assert settings.rules.options.skip_larger_than == (640, 480)
    assert [stage.pinned.name for stage in settings.stages] == [tiny_weights.name] * 2


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("ReadImages", {"patern": "a"}, "unknown option patern; the options are: pattern, "),
        ("ReadImages", {"retry": "faild"}, "retry is 'faild'; it must be one of upscaled, "),
        ("ReadImages", {"input_format": "tar"}, "it must be one of folder, "),
        ("ReadImages", {"columns": {"a": "str"}}, "must be one of string, "),
        ("Upscale", {"oversise": "tile"}, "unknown option oversise (did you mean oversize?); "),
        ("Upscale", {"oversize": "cut"}, "oversize is 'cut'; it must be one of "),
        ("Upscale", {"engine": "esrgan"}, "unknown engine 'esrgan'"),
        ("WriteDataset", {"outputs": "b"}, "unknown option outputs; the options are: output, "),
        ("WriteDataset", {"layout": "tar"}, "layout is 'tar'; it must be one of files, "),
    ],
)
def test_what_is_no_option_or_no_value_of_it_is_refused_with_what_is(
    tmp_path: Path, quick: dict[str, Any], kind: str, config: dict[str, Any], message: str
) -> None:
    configs: dict[str, dict[str, Any]] = {
        "ReadImages": {"pattern": str(tmp_path)},
        "Upscale": quick,
        "WriteDataset": {"output": str(tmp_path / "out")},
    }
    configs[kind] = {**configs[kind], **config}

    with pytest.raises(ValueError, match=f"(?s)Invalid transform .*{kind}.*{re.escape(message)}"):
        build(*(step(name, **config) for name, config in configs.items()))


def test_field_that_carries_images_is_asked_for_before_anything_runs(
    tmp_path: Path, quick: dict[str, Any]
) -> None:
    read, write = step("ReadImages", pattern="a"), step("WriteDataset", output=str(tmp_path))
    dropping = step("MapToFields", fields={"input_id": "input_id"})

    with pytest.raises(ValueError, match=r"Upscale needs the field source .* with append: true"):
        build(read, dropping, step("Upscale", **quick), write)
    with pytest.raises(ValueError, match=r"WriteDataset needs the field image and result"):
        build(read, step("Upscale", **quick), dropping, write)


def test_windows_are_refused_with_what_to_do(tmp_path: Path, quick: dict[str, Any]) -> None:
    output = str(tmp_path / "out")
    read, upscale = step("ReadImages", pattern="a", output=output), step("Upscale", **quick)
    fixed = step("WindowInto", windowing={"type": "fixed", "size": "60s"})
    whole = {**step("WindowInto", windowing={"type": "global"}), "name": "Together"}
    write = step("WriteDataset", output=output)

    with pytest.raises(Exception, match=r"WindowInto\(beam\.window\.GlobalWindows\(\)\) before"):
        build(read, fixed, upscale, write)
    build(read, fixed, upscale, whole, write)


def test_two_upscales_with_other_settings_are_refused(
    tmp_path: Path, quick: dict[str, Any]
) -> None:
    kinds = {"Small": {**quick, "long_side": 20}, "Large": quick}
    steps = [{**step("ReadImages", pattern=str(tmp_path)), "name": "Read"}]
    steps += [
        {**step("Upscale", **options), "name": name, "input": "Read"}
        for name, options in kinds.items()
    ]
    steps += [
        {"type": "Flatten", "input": list(kinds)},
        {**step("WriteDataset", output=str(tmp_path / "out")), "input": "Flatten"},
    ]
    text = f"pipeline: {json.dumps({'transforms': steps}, indent=1)}\n{LISTING}\n"
    options, construct = main.build_pipeline_components_from_yaml(text, [], "generic", "")

    with pytest.raises(Exception, match=r"settings\.plan\.long_side: (None and 20|20 and None)"):
        construct(beam.Pipeline(runner=FnApiRunner(), options=options))


@pytest.mark.slow
def test_image_that_was_changed_on_the_way_stops_the_run(
    tmp_path: Path, photographs: Path, quick: dict[str, Any]
) -> None:
    with pytest.raises(Exception, match=r"image of .* is not the one that Upscale made"):
        run_pipeline(
            step("ReadImages", pattern=str(photographs)),
            step("Upscale", **quick),
            step(
                "MapToFields",
                append=True,
                drop=["image"],
                language="python",
                fields={"image": "b'smaller'"},
            ),
            step("WriteDataset", output=str(tmp_path / "out")),
        )


def test_listing_is_that_of_the_pipeline() -> None:
    (listed,) = load_providers(str(PROVIDERS))
    without_variables = re.sub(r"\{\{.*?\}\}", "{}", PIPELINE.read_text())
    (inline,) = yaml.safe_load(without_variables)["providers"]

    assert isinstance(listed, InlineProvider)
    assert listed._transform_factories == {
        "ReadImages": ReadImages,
        "Upscale": Upscale,
        "WriteDataset": WriteDataset,
    }
    assert [inline] == yaml.safe_load(PROVIDERS.read_text())


@pytest.mark.parametrize("name", ["ReadImages", "Upscale", "WriteDataset"])
def test_transforms_tell_beam_what_they_are_and_take(name: str) -> None:
    (listed,) = load_providers(str(PROVIDERS))

    fields = {field.name: field.description for field in listed.config_schema(name).fields}

    assert listed.description(name)
    assert all(fields[option] for option in fields.keys() - {"unknown"})
