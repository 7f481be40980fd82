"""The jobs that `compare_checkouts` has two checkouts do."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Milestone:
    """A moment of a run, at which it is killed.

    Attributes:
        files: pattern of files, relative to the output.
        count: of such files that are there by then.
    """

    files: str
    count: int


@dataclasses.dataclass(frozen=True)
class Job:
    """Commands that both checkouts carry out.

    Attributes:
        name: of the job.
        commands: of beam-upscale or, where they begin with `python`, of Python; words of `WORDS`
            begin with `$`. What they print as JSON is compared too.
        served: options of `serve`, to which the commands have a key; empty starts no server.
        begun: a command that the checkout before does first; both go on with its output.
        killed_at: the moment at which it is killed; None lets it end.
        is_slow: True has the job done only if its name is given.
    """

    name: str
    commands: tuple[str, ...]
    served: str = ""
    begun: str = ""
    killed_at: Milestone | None = None
    is_slow: bool = False


WORDS: Mapping[str, str] = {
    "nearest": "--weights nearest",
    "fast": "--weights realesr-animevideov3-ncnn",
    "latent": "stable-diffusion-x4-latent-upscaler",
    "both": "--weights esrgan-v1-x2plus=nearest --weights $latent=lanczos",
    "small": "--engine $latent --weights $inputs/diffusion --steps 2",
    "grpc": "--backend grpc --endpoint $endpoint",
    "runner": "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "demo": "--engine esrgan-v1-x2plus --oversize reject --min-side 600 --max-credits 1.2",
    "spread": "--oversize tile --fan-out-above 1 --weights nearest",
}
"""Words of commands; besides there are inputs, out (the output), checkout and endpoint."""

_SERVED = "--engine esrgan-v1-x2plus --weights nearest"
_BOTH_SERVED = "$both --engine esrgan-v1-x2plus --engine $latent"


def _with_inputs(name: str, source: str, options: str = "") -> Job:
    return Job(name, (f"run {source} $out $nearest {options}",))


JOBS = (
    Job("demo", ("plan $inputs/samples $demo --json", "run $inputs/samples $out $demo $fast")),
    Job("demo-default-weights", ("run $inputs/samples $out $demo",), is_slow=True),
    Job("fifty", ("run $inputs/photographs $out $fast --shard-rows 20", "verify $out")),
    Job("fifty-default-weights", ("run $inputs/photographs $out",), is_slow=True),
    Job("default-weights", ("run '$inputs/photographs/0[0-3].png' $out",)),
    Job("torch", ("run $inputs/few $out $fast --network-backend torch --precision fp32",)),
    Job(
        "chain",
        ("run $inputs/few $out --then $latent $both --keep-intermediates --oversize shrink",),
    ),
    Job("diffusion", ("run $inputs/few $out $small --color-fix --negative-prompt dull",)),
    Job("tile", ("run $inputs/samples/drawings/panorama.jpg $out $fast --oversize tile",)),
    Job("shrink", ("run $inputs/large $out $nearest --oversize shrink --format jpeg",)),
    Job("large", ("run $inputs/large $out $spread",)),
    Job("large-tiff", ("run $inputs/large $out $spread --format tiff --metadata strip",)),
    Job(
        "layouts",
        (
            "run $inputs/few $out/parquet $nearest --layout parquet --shard-rows 3",
            "run $inputs/few $out/webdataset $nearest --layout webdataset --format webp",
        ),
    ),
    Job(
        "encode",
        (
            "run $inputs/few $out/jpeg $nearest --format jpeg --quality 80 --short-side 50",
            "run $inputs/few $out/tiff $nearest --format tiff --metadata strip",
        ),
    ),
    _with_inputs("input-kinds", "$inputs/kinds"),
    _with_inputs("input-jsonl", "$inputs/few.jsonl"),
    _with_inputs("input-csv", "$inputs/few.csv"),
    _with_inputs("input-tsv", "$inputs/few.tsv"),
    _with_inputs("input-parquet", "$inputs/few.parquet", "--image-column image"),
    _with_inputs("input-embedded", "$inputs/embedded.parquet"),
    _with_inputs("input-webdataset", "$inputs/few.tar"),
    _with_inputs("input-urls", "$inputs/urls.jsonl"),
    Job(
        "bad",
        (
            "plan $inputs/bad --json",
            "plan $inputs/bad --to $out/plan",
            "run $inputs/bad $out/run $nearest --strict --max-input-pixels 100000",
            "run $inputs/bad $out/run $nearest --animated reject --retry failed",
            "run $inputs/bad.jsonl $out/rows $nearest",
            "run $inputs/none $out/none $nearest",
        ),
    ),
    Job(
        "budget",
        (
            "run $inputs/photographs $out $nearest --max-credits 3.5",
            "run $inputs/photographs $out $nearest --max-credits 5 --retry over_budget",
        ),
    ),
    Job("listings", ("weights list --json", "engines --json")),
    Job("grpc", ("run $inputs/photographs $out $grpc",), _SERVED),
    Job(
        "grpc-tile",
        ("run $inputs/large $out $grpc --oversize tile --max-credits 1.3",),
        _SERVED,
    ),
    Job(
        "grpc-chain",
        ("run $inputs/few $out $grpc --then $latent --keep-intermediates",),
        _BOTH_SERVED,
    ),
    Job(
        "yaml",
        (
            "python -m apache_beam.yaml.main $runner"
            " --yaml_pipeline_file=$checkout/pipelines/upscale.yaml"
            """ '--jinja_variables={"input": "$inputs/few", "output": "$out","""
            """ "layout": "parquet", "upscale": {"weights": "nearest", "oversize": "tile"}}'""",
        ),
    ),
    Job("own-pipeline", ("python $inputs/pipeline.py $inputs/few $out",)),
    Job("own-images", ("python $inputs/pipeline_of_bytes.py $inputs/photographs $out",)),
    Job(
        "program",
        ("python $checkout/pipelines/upscale_images.py $inputs/few $out $nearest --format webp",),
    ),
    Job(
        "killed",
        ("run $inputs/photographs $out $fast",),
        begun="run $inputs/photographs $out $fast",
        killed_at=Milestone("images/*.png", 10),
    ),
    Job(
        "killed-commit",
        ("run $inputs/photographs $out $nearest --layout webdataset --shard-rows 5",),
        begun="run $inputs/photographs $out $nearest --layout webdataset --shard-rows 5",
        killed_at=Milestone("manifest/*.parquet", 3),
    ),
    Job(
        "killed-large",
        ("run $inputs/large $out $spread",),
        begun="run $inputs/large $out $spread",
        killed_at=Milestone(".staging/**/results/*", 3),
    ),
    Job(
        "killed-grpc",
        ("run $inputs/photographs $out $grpc",),
        _SERVED,
        begun="run $inputs/photographs $out $grpc --max-in-flight 4",
        killed_at=Milestone("images/*.png", 10),
    ),
    Job(
        "finished",
        ("run $inputs/few $out $nearest --layout parquet",),
        begun="run $inputs/few $out $nearest --layout parquet",
    ),
    Job(
        "finished-otherwise",
        (
            "run $inputs/few $out --weights lanczos",
            "run $inputs/few $out $nearest --layout parquet",
        ),
        begun="run $inputs/few $out $nearest",
    ),
    Job(
        "finished-grpc",
        ("run $inputs/few $out $grpc --then $latent",),
        _BOTH_SERVED,
        begun="run $inputs/few $out $grpc --then $latent",
    ),
)
