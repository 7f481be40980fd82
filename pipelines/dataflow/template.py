"""Fills the choices and the defaults of the program's options into `template.json`.

`python -m pipelines.dataflow.template` writes the file anew. Its labels, helps and other regular
expressions are written by hand.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from beam_upscale.planning.engines import ENGINES
from pipelines.upscale_images import option_parser

TEMPLATE = Path(__file__).with_name("template.json")


def filled(template: str) -> str:
    """Returns the text of the template with the choices and defaults that the program has now."""
    specification = json.loads(template)
    options = {
        action.option_strings[-1].removeprefix("--"): action
        for action in option_parser()._actions
        if action.option_strings
    }
    for parameter in specification["metadata"]["parameters"]:
        if parameter["name"] in options:
            _fill(parameter, options[parameter["name"]])
    return json.dumps(specification, indent=2, ensure_ascii=False) + "\n"


def _fill(parameter: dict[str, Any], option: argparse.Action) -> None:
    """Sets what a parameter of the template takes from an option of the program."""
    choices = list(ENGINES) if option.dest in ("engine", "then") else list(option.choices or [])
    if choices:
        parameter["regexes"] = [f"^({'|'.join(choices)})$"]
        parameter["enumOptions"] = [{"value": each, "label": each} for each in choices]
    parameter.pop("defaultValue", None)
    if option.default:
        parameter["defaultValue"] = str(option.default)


if __name__ == "__main__":
    TEMPLATE.write_text(filled(TEMPLATE.read_text()))
