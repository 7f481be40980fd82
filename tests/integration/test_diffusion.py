"""Runs with the diffusion engine, from a folder to a dataset."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from runs import DIFFUSION, ENGINE, ON_CPU, command, rows, tree, upscale
from safetensors.torch import load_file, save_file
from small_pipelines import small_autoencoder

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.verify import verify
from beam_upscale.inference.elements import METRICS
from beam_upscale.inference.networks.diffusion.latent import LatentNetwork
from beam_upscale.inference.networks.diffusion.latent_pipeline import Job
from beam_upscale.inference.networks.numerics import require_finite

# Quick, and enough for every part of a step to matter.
QUICK = {"steps": 2}
OPTIONS = [*ON_CPU, "--steps", "2"]

CHAIN = (ENGINE, DIFFUSION)


@pytest.fixture
def chain_weights(tiny_weights: Path, tiny_pipeline: Path) -> dict[str, str]:
    return {ENGINE: str(tiny_weights), DIFFUSION: str(tiny_pipeline)}


def write_metadata(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = [json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def give_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the network fail on all pictures but a gray one."""
    denoise = LatentNetwork._denoise

    def failing(self: LatentNetwork, jobs: Sequence[Job], *arguments: Any) -> Any:
        latents = denoise(self, jobs, *arguments)
        if any(job.pixels.std() for job in jobs):
            require_finite(latents * float("nan"))
        return latents

    monkeypatch.setattr(LatentNetwork, "_denoise", failing)


def pixels(output: Path, name: str) -> np.ndarray:
    with Image.open(output / "images" / name) as picture:
        return np.asarray(picture)


@pytest.fixture
def folder(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Three small photographs of different sizes."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed, (width, height) in enumerate([(24, 16), (16, 16), (13, 21)]):
        photograph(seed, width, height).save(folder / f"{seed}.png")
    return folder


# Parity


@pytest.mark.parametrize("seed", [1, 4_294_967_295])
def test_a_run_gives_what_the_bare_library_gives_for_the_same_seed(
    tmp_path: Path, tiny_pipeline: Path, photograph: Callable[..., Image.Image], seed: int
) -> None:
    import torch
    from diffusers import StableDiffusionUpscalePipeline

    folder = tmp_path / "in"
    folder.mkdir()
    picture = photograph(3, 48, 32)
    picture.save(folder / "0.png")
    parameters = {"prompt": "a cat", "negative_prompt": "blur", "cfg_scale": 5.5, "noise_level": 30}

    upscale(
        folder,
        tmp_path / "out",
        tiny_pipeline,
        engine=DIFFUSION,
        **parameters,
        steps=4,
        seed=seed,
    )

    bare = StableDiffusionUpscalePipeline.from_pretrained(tiny_pipeline)
    bare.set_progress_bar_config(disable=True)
    torch.set_num_threads(1)
    expected = bare(
        "a cat",
        image=picture,
        negative_prompt="blur",
        guidance_scale=5.5,
        num_inference_steps=4,
        noise_level=30,
        generator=torch.Generator("cpu").manual_seed(seed),
    ).images[0]
    assert np.array_equal(pixels(tmp_path / "out", "0.png"), np.asarray(expected))
    assert rows(tmp_path / "out")["0.png"].seed == seed


# Rows


def test_a_row_says_how_its_image_was_guided(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    output = tmp_path / "out"

    upscale(folder, output, tiny_pipeline, engine=DIFFUSION, **QUICK, prompt="a cat", noise_level=7)

    found = rows(output)
    for row in found.values():
        assert (row.status, row.engine, row.calls) == ("upscaled", DIFFUSION, 1)
        assert (row.prompt, row.negative_prompt, row.cfg_scale) == ("a cat", "", 7.0)
        assert (row.steps, row.noise_level) == (2, 7)
        assert row.seed is not None
        assert 1 <= row.seed < 2**32
        assert (row.credits, row.billed_credits) == (Decimal(8), 0)
        assert (row.output_width, row.output_height) == (
            4 * (row.input_width or 0),
            4 * (row.input_height or 0),
        )
        assert row.stages == ()
    assert len({row.seed for row in found.values()}) == 3
    assert list(verify(str(output))) == []


def test_a_derived_seed_repeats_a_run_and_given_back_makes_the_same_image(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    for name in ("first", "second"):
        upscale(folder, tmp_path / name, tiny_pipeline, engine=DIFFUSION, **QUICK)
    seed = rows(tmp_path / "first")["0.png"].seed
    upscale(
        folder / "0.png", tmp_path / "third", tiny_pipeline, engine=DIFFUSION, **QUICK, seed=seed
    )

    assert tree(tmp_path / "first") == tree(tmp_path / "second")
    assert np.array_equal(pixels(tmp_path / "first", "0.png"), pixels(tmp_path / "third", "0.png"))


def test_parameters_come_from_the_dataset_before_the_command_line(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    write_metadata(folder, [{"file_name": "0.png", "prompt": "a dog", "steps": 3, "label": 5}])
    (folder / "1.txt").write_text("a bird\n")

    upscale(folder, tmp_path / "out", tiny_pipeline, engine=DIFFUSION, **QUICK, prompt="a cat")

    found = rows(tmp_path / "out")
    assert {name: (row.prompt, row.steps) for name, row in found.items()} == {
        "0.png": ("a dog", 3),
        "1.png": ("a bird", 2),
        "2.png": ("a cat", 2),
    }
    assert found["0.png"].input["label"] == 5


def test_the_prompt_may_stand_in_another_column_but_not_in_one_that_no_input_has(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    write_metadata(folder, [{"file_name": "0.png", "text": "a dog", "prompt": "a bird"}])
    named = {"engine": DIFFUSION, **QUICK, "prompt": "a cat"}

    upscale(folder, tmp_path / "out", tiny_pipeline, **named, prompt_column="text")
    with pytest.raises(bu.SettingsError, match="file_name, prompt, text") as caught:
        upscale(folder, tmp_path / "other", tiny_pipeline, **named, prompt_column="txt")

    found = rows(tmp_path / "out")
    assert (found["0.png"].prompt, found["1.png"].prompt) == ("a dog", "a cat")
    assert caught.value.code is bu.ErrorCode.INVALID_OPTION
    assert not (tmp_path / "other").exists()
    planned = command("plan", folder, "--engine", DIFFUSION, "--prompt-column", "txt")
    assert (planned.code, "invalid_option" in planned.err) == (2, True)


def test_a_bad_value_in_the_dataset_is_one_row_with_its_own_code(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    write_metadata(
        folder,
        [
            {"file_name": "0.png", "steps": 51},
            {"file_name": "1.png", "cfg_scale": -1},
        ],
    )

    upscale(folder, tmp_path / "out", tiny_pipeline, engine=DIFFUSION, **QUICK)

    found = rows(tmp_path / "out")
    assert {name: (row.status, row.error_code) for name, row in found.items()} == {
        "0.png": ("rejected", "invalid_steps"),
        "1.png": ("rejected", "invalid_cfg_scale"),
        "2.png": ("upscaled", None),
    }
    assert "51" in (found["0.png"].error_message or "")
    assert "50" in (found["0.png"].error_message or "")
    planned = json.loads(
        command("plan", folder, "--engine", DIFFUSION, "--json", "--steps", "2").out
    )
    assert planned["totals"]["rejected"]["images"] == 2
    assert planned["totals"]["upscaled"]["credits"] == "8"


def test_a_prompt_that_is_too_long_is_cut_with_a_note(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    upscale(folder, tmp_path / "out", tiny_pipeline, engine=DIFFUSION, **QUICK, prompt="cat " * 60)

    for row in rows(tmp_path / "out").values():
        (note,) = row.notes
        assert note.startswith("prompt_truncated: ")
        assert "77" in note


def test_a_plan_shows_why_an_image_is_refused(
    tmp_path: Path, photograph: Callable[..., Image.Image]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photograph(0, 512, 769).save(folder / "0.png")

    finished = command("plan", folder, "--engine", DIFFUSION)

    assert "input_too_large" in finished.out
    assert "393,728 px" in finished.out
    assert "393,216 px" in finished.out


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--steps", "51"], "invalid_steps"),
        (["--steps", "0"], "invalid_steps"),
        (["--cfg-scale=-0.5"], "invalid_cfg_scale"),
        (["--cfg-scale", "high"], "invalid_cfg_scale"),
        (["--seed", "4294967296"], "invalid_seed"),
        (["--noise-level", "351"], "invalid_noise_level"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_bad_value_on_the_command_line_stops_before_anything_runs(
    folder: Path, tmp_path: Path, verb: str, options: list[str], code: str
) -> None:
    output = [] if verb == "plan" else [tmp_path / "out"]

    finished = command(verb, folder, *output, "--engine", DIFFUSION, *options)

    assert finished.code == 2
    assert finished.err.startswith(f"beam-upscale: {code}: ")
    assert finished.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_parameters_of_an_engine_that_takes_none_are_ignored_with_one_warning(
    folder: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    options = ["--weights", tiny_weights, *OPTIONS, "--prompt", "a cat"]

    finished = command("run", folder, tmp_path / "out", *options)

    assert finished.code == 0
    assert finished.err.count("ignored: prompt, steps") == 1
    row = rows(tmp_path / "out")["0.png"]
    assert (row.prompt, row.steps, row.seed) == (None, None, None)
    beyond = command("plan", folder, "--steps", "51")
    assert (beyond.code, beyond.err.count("ignored: steps")) == (0, 1)
    with pytest.warns(UserWarning, match="ignored: prompt"):
        bu.Upscale(ENGINE, weights=str(tiny_weights), device="cpu", prompt="a cat")


# Weights


def test_a_folder_that_lacks_a_file_is_refused(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    broken = shutil.copytree(tiny_pipeline, tmp_path / "broken")
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()

    finished = command("run", folder, tmp_path / "out", "--engine", DIFFUSION, "--weights", broken)

    assert finished.code == 2
    assert "weights_incomplete" in finished.err
    assert "unet/diffusion_pytorch_model" in finished.err


def test_a_file_that_is_cut_short_is_refused(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    broken = shutil.copytree(tiny_pipeline, tmp_path / "broken")
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])

    finished = command("run", folder, tmp_path / "out", "--engine", DIFFUSION, "--weights", broken)

    assert finished.code == 2
    assert "weights_unusable" in finished.err


def test_a_model_that_gives_no_numbers_stops_the_run_and_leaves_no_black_image(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    broken = shutil.copytree(tiny_pipeline, tmp_path / "broken")
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({n: v * float("nan") for n, v in state.items()}, file, metadata={"format": "pt"})

    result = upscale(folder, tmp_path / "out", broken, engine=DIFFUSION, **QUICK)

    assert (result.stopped or "").startswith("device_lost: not even the smallest picture")
    assert "not a number" in (result.stopped or "")
    assert result.totals.rows == 0
    assert not (tmp_path / "out" / "images").exists()


def test_a_picture_that_gives_no_numbers_fails_and_leaves_no_black_image(
    folder: Path, tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_no_numbers(monkeypatch)

    upscale(folder, tmp_path / "out", tiny_pipeline, engine=DIFFUSION, **QUICK)

    found = rows(tmp_path / "out")
    assert found
    for row in found.values():
        assert (row.status, row.error_code, row.output_uri) == ("failed", "not_a_number", None)
        assert row.seed is not None
        assert row.credits == 0


def test_any_file_of_the_weights_is_part_of_their_hash(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    changed = shutil.copytree(tiny_pipeline, tmp_path / "changed")
    with (changed / "scheduler" / "scheduler_config.json").open("a") as file:
        file.write("\n")
    upscale(folder, tmp_path / "out", tiny_pipeline, engine=DIFFUSION, **QUICK)

    with pytest.raises(bu.SettingsError, match="weights_sha256") as caught:
        upscale(folder, tmp_path / "out", changed, engine=DIFFUSION, **QUICK)

    assert caught.value.code is bu.ErrorCode.SETTINGS_CHANGED


# Neighbors


def twelve(photograph: Callable[..., Image.Image], folder: Path) -> list[bu.SourceImage]:
    """Twelve images of three sizes, some guided alike."""
    folder.mkdir()
    sources = []
    for seed in range(12):
        path = folder / f"{seed:02d}.png"
        photograph(seed, *[(16, 16), (24, 16), (9, 21)][seed % 3]).save(path)
        columns = {"prompt": f"number {seed % 4}", "steps": 1 + seed % 2, "cfg_scale": 7 - seed % 5}
        sources.append(bu.source_image(str(path), columns=columns))
    return sources


def digests(
    sources: Sequence[bu.SourceImage], weights: Path, batch: int, workers: int
) -> dict[str, str | None]:
    """What a pipeline makes of inputs, given to RunInference so many at a time."""
    options = PipelineOptions([])
    direct = options.view_as(DirectOptions)
    direct.direct_num_workers = workers
    direct.direct_running_mode = "multi_threading" if workers > 1 else "in_memory"
    settings = bu.UpscaleSettings.of(
        DIFFUSION, weights=str(weights), device="cpu", precision="fp32", threads=1
    )

    # The largest of the images has as many pixels.
    size = {"min_batch_size": batch * 24 * 16, "max_batch_size": batch * 24 * 16}
    _found.clear()
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(sources)
            | beam.Reshuffle()
            | bu.Upscale(settings.pin(), handler_options=size)
            | beam.Map(_keep)
        )
    return dict(_found)


_found: dict[str, str | None] = {}


def _keep(upscaled: bu.UpscaledImage) -> None:
    assert upscaled.record is not None
    _found[upscaled.source.input_id] = upscaled.record.row.output_sha256


@pytest.mark.slow
def test_neighbors_order_and_workers_change_no_byte(
    tmp_path: Path, tiny_pipeline: Path, photograph: Callable[..., Image.Image]
) -> None:
    sources = twelve(photograph, tmp_path / "in")
    expected = digests(sources, tiny_pipeline, batch=1, workers=1)
    assert len(expected) == 12
    assert None not in expected.values()

    for batch, workers in [(12, 1), (3, 4), (12, 4)]:
        random.Random(batch * workers).shuffle(sources)
        assert digests(sources, tiny_pipeline, batch, workers) == expected


def test_the_seed_of_one_image_does_not_depend_on_where_it_stands(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    upscale(folder, tmp_path / "all", tiny_pipeline, engine=DIFFUSION, **QUICK)
    (tmp_path / "one").mkdir()
    shutil.copy(folder / "2.png", tmp_path / "one" / "another name.png")
    upscale(tmp_path / "one", tmp_path / "alone", tiny_pipeline, engine=DIFFUSION, **QUICK)

    (alone,) = rows(tmp_path / "alone").values()
    assert alone.output_sha256 == rows(tmp_path / "all")["2.png"].output_sha256


def test_a_text_is_embedded_once_however_many_images_it_guides(
    tmp_path: Path, tiny_pipeline: Path, photograph: Callable[..., Image.Image]
) -> None:
    sources = []
    prompts = ["a" * 75, "b" * 75]
    for seed in range(10):
        path = tmp_path / f"{seed}.png"
        photograph(seed, 8 + 8 * seed, 16).save(path)
        sources.append(bu.source_image(str(path), columns={"prompt": prompts[seed % 2]}))
    upscaler = bu.Upscale(
        DIFFUSION, weights=str(tiny_pipeline), device="cpu", precision="fp32", threads=1, steps=1
    )

    pipeline = beam.Pipeline(runner=FnApiRunner())
    _ = pipeline | beam.Create(sources) | upscaler
    result = pipeline.run()
    result.wait_until_finish()

    query = MetricsFilter().with_namespace(METRICS).with_name("text_embeddings")
    (counter,) = result.metrics().query(query)["counters"]
    # Both prompts, and the empty negative prompt of all.
    assert counter.committed == 3


# Pixels


def test_gray_alpha_and_sixteen_bits_are_kept(
    tmp_path: Path, tiny_pipeline: Path, photograph: Callable[..., Image.Image]
) -> None:
    import pyvips

    folder = tmp_path / "in"
    folder.mkdir()
    photograph(0, 16, 8, "L").save(folder / "gray.png")
    transparent = photograph(1, 16, 8, "RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((16, 8)))
    transparent.save(folder / "alpha.png")
    deep = np.random.default_rng(0).integers(0, 65536, (8, 16, 3), np.uint16)
    pyvips.Image.new_from_array(deep).copy(interpretation="rgb16").write_to_file(
        str(folder / "deep.png")
    )

    upscale(folder, tmp_path / "out", tiny_pipeline, engine=DIFFUSION, **QUICK)

    assert pixels(tmp_path / "out", "gray.png").shape == (32, 64)
    alpha = pixels(tmp_path / "out", "alpha.png")[:, :, 3]
    assert np.all(np.diff(alpha.astype(int), axis=0) >= 0)
    deep_image = pyvips.Image.new_from_file(str(tmp_path / "out" / "images" / "deep.png"))
    assert (deep_image.format, deep_image.width, deep_image.height) == ("ushort", 64, 32)


def test_the_color_fix_is_recorded_and_keeps_the_mean(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    for fix in (False, True):
        upscale(
            folder, tmp_path / str(fix), tiny_pipeline, engine=DIFFUSION, **QUICK, color_fix=fix
        )

    with Image.open(folder / "0.png") as picture:
        mean = np.asarray(picture).mean(axis=(0, 1))
    bare = pixels(tmp_path / "False", "0.png").mean(axis=(0, 1))
    fixed = pixels(tmp_path / "True", "0.png").mean(axis=(0, 1))
    assert np.abs(bare - mean).max() > 5
    assert np.abs(fixed - mean).max() <= 0.5
    run_json = DatasetFolder(str(tmp_path / "True")).read_run()
    assert run_json is not None and run_json.settings is not None
    assert run_json.settings["stages"][0]["model"]["color_fix"] is True


@pytest.mark.slow
def test_an_image_beyond_the_limit_is_made_in_priced_tiles(
    tmp_path: Path, tiny_pipeline: Path, photograph: Callable[..., Image.Image]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photograph(0, 720, 560).save(folder / "0.png")
    quick = shutil.copytree(tiny_pipeline, tmp_path / "quick")
    # Attention sees each tile whole, which takes minutes, and is tested where tiles are small.
    small_autoencoder(attention=False).save_pretrained(quick / "vae")

    upscale(
        folder,
        tmp_path / "out",
        quick,
        engine=DIFFUSION,
        steps=1,
        cfg_scale=1,
        oversize="tile",
    )

    row = rows(tmp_path / "out")["0.png"]
    assert (row.status, row.output_width, row.output_height) == ("upscaled", 2880, 2240)
    assert row.calls > 1
    assert row.credits >= 8 * row.calls
    assert row.notes == (f"upscaled in {row.calls} tiles",)
    assert pixels(tmp_path / "out", "0.png").std() > 5


# Chains


def test_a_chain_leaves_one_row_with_its_stages(
    folder: Path, tmp_path: Path, chain_weights: dict[str, str]
) -> None:
    output = tmp_path / "out"

    upscale(folder, output, chain_weights, engine=CHAIN, **QUICK)

    row = rows(output)["0.png"]
    assert (row.status, row.engine, row.calls) == ("upscaled", DIFFUSION, 2)
    assert (row.credits, row.usd) == (Decimal("8.2"), Decimal("0.082"))
    assert (row.output_width, row.output_height) == (8 * 24, 8 * 16)
    first, second = row.stages
    assert (first["engine"], second["engine"]) == CHAIN
    assert (first["output_width"], second["input_width"], second["output_width"]) == (48, 48, 192)
    assert (first["credits"], second["credits"]) == (Decimal("0.2"), Decimal(8))
    assert (first["seed"], second["seed"]) == (None, row.seed)
    assert first["weights_sha256"] != second["weights_sha256"]
    assert sorted(path.name for path in output.rglob("*.png")) == ["0.png", "1.png", "2.png"]
    assert list(verify(str(output))) == []


def test_a_chain_is_its_engines_one_after_the_other(
    folder: Path,
    tmp_path: Path,
    tiny_weights: Path,
    tiny_pipeline: Path,
    chain_weights: dict[str, str],
) -> None:
    upscale(folder, tmp_path / "first", tiny_weights)
    between = tmp_path / "first" / "images"
    upscale(between, tmp_path / "second", tiny_pipeline, engine=DIFFUSION, **QUICK)

    upscale(folder, tmp_path / "chain", chain_weights, engine=CHAIN, **QUICK)

    for name in ("0.png", "1.png", "2.png"):
        assert np.array_equal(pixels(tmp_path / "second", name), pixels(tmp_path / "chain", name))


def test_a_chain_runs_in_the_other_order_and_with_an_alpha_channel(
    tmp_path: Path, chain_weights: dict[str, str], photograph: Callable[..., Image.Image]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photograph(0, 16, 8, "RGBA").save(folder / "0.png")

    upscale(folder, tmp_path / "out", chain_weights, engine=(DIFFUSION, ENGINE), **QUICK)

    row = rows(tmp_path / "out")["0.png"]
    assert row.engine == ENGINE
    assert row.seed == row.stages[0]["seed"]
    assert row.steps == 2
    assert pixels(tmp_path / "out", "0.png").shape == (64, 128, 4)


def test_a_chain_that_cannot_fit_is_refused_in_the_plan_with_both_numbers(
    tmp_path: Path, chain_weights: dict[str, str], photograph: Callable[..., Image.Image]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photograph(0, 512, 512).save(folder / "0.png")

    finished = command("plan", folder, "--engine", ENGINE, "--then", DIFFUSION, "--json")
    upscale(folder, tmp_path / "out", chain_weights, engine=CHAIN, **QUICK)

    (planned,) = json.loads(finished.out)["images"]
    row = rows(tmp_path / "out")["0.png"]
    for message in (planned["message"], row.error_message or ""):
        assert "1,048,576 px" in message
        assert "393,216 px" in message
    assert (planned["status"], planned["error_code"]) == ("rejected", "input_too_large")
    assert (row.status, row.error_code, row.credits) == ("rejected", "input_too_large", 0)


def test_intermediates_are_kept_only_where_that_is_asked(
    folder: Path,
    tmp_path: Path,
    tiny_weights: Path,
    chain_weights: dict[str, str],
    photograph: Callable[..., Image.Image],
) -> None:
    output = tmp_path / "out"
    upscale(folder, tmp_path / "alone", tiny_weights)
    kept = {"engine": CHAIN, **QUICK, "keep_intermediates": True}

    upscale(folder, output, chain_weights, **kept)

    for name, row in rows(output).items():
        first, last = row.stages
        assert first["output_uri"].startswith(f"intermediates/1/{name.removesuffix('.png')}-")
        assert last["output_uri"] is None
        alone = (tmp_path / "alone" / "images" / name).read_bytes()
        assert (output / first["output_uri"]).read_bytes() == alone
    assert list(verify(str(output))) == []
    changed, missing = (rows(output)[name].stages[0]["output_uri"] for name in ("0.png", "1.png"))
    (output / changed).write_bytes(b"")
    (output / missing).unlink()
    assert {(each.kind, each.path) for each in verify(str(output))} == {
        ("changed", changed),
        ("missing_file", missing),
    }

    upscale(folder, output, chain_weights, **kept)

    assert list(verify(str(output))) == []


def test_intermediates_of_a_shard_that_changes_its_place_stay(
    folder: Path, tmp_path: Path, chain_weights: dict[str, str]
) -> None:
    output = tmp_path / "out"
    kept = {"engine": CHAIN, **QUICK, "keep_intermediates": True, "layout": Layout.PARQUET}
    (folder / "0.png").rename(tmp_path / "0.png")
    upscale(folder, output, chain_weights, **kept, shard_rows=1)
    (tmp_path / "0.png").rename(folder / "0.png")
    shutil.copy(folder / "2.png", folder / "1.png")

    upscale(folder, output, chain_weights, **kept, shard_rows=1)

    assert len(list((output / "intermediates").rglob("*.png"))) == 3
    assert list(verify(str(output))) == []


def test_a_name_that_another_input_had_takes_no_intermediate_from_it(
    folder: Path, tmp_path: Path, chain_weights: dict[str, str]
) -> None:
    output = tmp_path / "out"
    kept = {"engine": CHAIN, **QUICK, "keep_intermediates": True, "layout": Layout.PARQUET}
    Image.open(folder / "0.png").save(folder / "0.webp", lossless=True)
    (folder / "0.png").unlink()
    upscale(folder, output, chain_weights, **kept)
    (folder / "0.webp").unlink()
    shutil.copy(folder / "1.png", folder / "0.png")

    upscale(folder, output, chain_weights, **kept)

    assert list(verify(str(output))) == []


def test_intermediates_go_with_the_images_they_belong_to(
    folder: Path, tmp_path: Path, chain_weights: dict[str, str]
) -> None:
    output = tmp_path / "out"
    kept = {"engine": CHAIN, **QUICK, "keep_intermediates": True}
    upscale(folder, output, chain_weights, **kept)
    (folder / "1.png").write_bytes(b"no image any more")

    upscale(folder, output, chain_weights, **kept)

    assert rows(output)["1.png"].status == "failed"
    left = sorted(path.name[0] for path in (output / "intermediates").rglob("*.png"))
    assert left == ["0", "2"]
    assert list(verify(str(output))) == []


def test_a_failure_in_a_later_stage_is_one_failed_row(
    folder: Path,
    tmp_path: Path,
    chain_weights: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_no_numbers(monkeypatch)

    upscale(folder, tmp_path / "out", chain_weights, engine=CHAIN, **QUICK)

    found = rows(tmp_path / "out")
    assert found
    for row in found.values():
        assert (row.status, row.error_code) == ("failed", "not_a_number")
        assert (row.error_message or "").startswith("stage 2 of 2: ")
        assert (row.credits, row.stages) == (0, ())


def test_weights_of_a_chain_name_their_engine(
    folder: Path, tmp_path: Path, tiny_weights: Path, tiny_pipeline: Path
) -> None:
    chain = ["--engine", ENGINE, "--then", DIFFUSION, *OPTIONS]

    good = command(
        "run",
        folder,
        tmp_path / "out",
        *chain,
        f"--weights={ENGINE}={tiny_weights}",
        f"--weights={DIFFUSION}={tiny_pipeline}",
    )
    bad = command("run", folder, tmp_path / "other", *chain, "--weights", tiny_weights)

    assert good.code == 0
    assert rows(tmp_path / "out")["0.png"].stages[0]["model"] == tiny_weights.name
    assert bad.code == 2
    assert "say for each which" in bad.err


# Going on


def test_a_changed_prompt_makes_its_image_again_and_no_other(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    output = tmp_path / "out"
    write_metadata(folder, [{"file_name": f"{n}.png", "prompt": f"cat {n}"} for n in range(3)])
    upscale(folder, output, tiny_pipeline, engine=DIFFUSION, **QUICK)
    before = {name: (output / "images" / name).stat().st_mtime_ns for name in rows(output)}
    write_metadata(
        folder, [{"file_name": f"{n}.png", "prompt": f"cat {min(n, 1)}"} for n in range(3)]
    )

    upscale(folder, output, tiny_pipeline, engine=DIFFUSION, **QUICK)

    after = {name: (output / "images" / name).stat().st_mtime_ns for name in rows(output)}
    assert {name for name in before if before[name] != after[name]} == {"2.png"}
    assert rows(output)["2.png"].prompt == "cat 1"
    fresh = tmp_path / "fresh"
    upscale(folder, fresh, tiny_pipeline, engine=DIFFUSION, **QUICK)
    assert tree(fresh) == tree(output)


def test_other_parameters_for_all_on_the_same_output_are_refused(
    folder: Path, tmp_path: Path, tiny_pipeline: Path
) -> None:
    upscale(folder, tmp_path / "out", tiny_pipeline, engine=DIFFUSION, **QUICK, prompt="a cat")

    with pytest.raises(bu.SettingsError, match=r"settings\.parameters\.prompt: a cat -> a dog"):
        upscale(folder, tmp_path / "out", tiny_pipeline, engine=DIFFUSION, **QUICK, prompt="a dog")


def test_a_budget_counts_a_chains_whole_price(
    folder: Path, tmp_path: Path, chain_weights: dict[str, str]
) -> None:
    upscale(
        folder,
        tmp_path / "out",
        chain_weights,
        engine=CHAIN,
        **QUICK,
        max_credits=Decimal("16.4"),
    )

    statuses = sorted(row.status for row in rows(tmp_path / "out").values())
    assert statuses == ["over_budget", "upscaled", "upscaled"]
