"""The command `engines`."""

import json

from runs import command

from beam_upscale import ENGINES


def test_engines_are_listed_with_limits_and_prices() -> None:
    table, values = command("engines"), command("engines", "--json")

    assert (table.code, values.code) == (0, 0)
    listed = {engine["name"]: engine for engine in json.loads(values.out)}
    assert listed.keys() == ENGINES.keys()
    assert listed["esrgan-v1-x2plus"]["input_limit"] == 1024 * 1024
    assert listed["stable-diffusion-x4-latent-upscaler"]["prices"] == [
        {"up_to_pixels": 262_144, "credits": "8"},
        {"up_to_pixels": None, "credits": "12"},
    ]
    assert "limits count pixels" in table.out
