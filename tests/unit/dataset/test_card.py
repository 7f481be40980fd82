from typing import Any

import pyarrow as pa
import pytest
import yaml

from beam_upscale.dataset.card import dataset_card
from beam_upscale.dataset.layouts.layout import Layout

SETTINGS = {
    "stages": [{"engine": "esrgan-v1-x2plus", "model": {"name": "tiny", "weights_sha256": "ab12"}}]
}
UPSCALED = {"upscaled": 12}


def front_matter(card: str) -> dict[str, Any]:
    """The YAML that the Hugging Face Hub and `datasets` read."""
    start, text, _ = card.split("---\n", 2)
    assert start == ""
    values: dict[str, Any] = yaml.safe_load(text)
    return values


@pytest.mark.parametrize(
    ("layout", "paths"),
    [
        (Layout.FILES, ["images/**", "images/**/__*/**"]),
        (Layout.PARQUET, "data/*.parquet"),
        (Layout.WEBDATASET, "data/*.tar"),
    ],
)
def test_the_card_tells_where_the_images_are(layout: Layout, paths: list[str] | str) -> None:
    config = front_matter(dataset_card(layout, UPSCALED, SETTINGS))["configs"][0]

    assert config["config_name"] == "default"
    assert config["data_files"] == [{"split": "train", "path": paths}]


def test_without_an_image_there_is_only_the_manifest() -> None:
    (only,) = front_matter(dataset_card(Layout.FILES, {"failed": 3}, SETTINGS))["configs"]

    assert only["config_name"] == "manifest"
    assert only["data_files"] == [{"split": "train", "path": "manifest/*.parquet"}]


def test_folders_of_images_are_no_labels() -> None:
    configs = front_matter(dataset_card(Layout.FILES, UPSCALED, SETTINGS))["configs"]

    assert configs[0]["drop_labels"] is True


def test_the_card_tells_a_person_what_it_is() -> None:
    card = dataset_card(Layout.FILES, {"upscaled": 12, "failed": 3}, SETTINGS)

    assert "`esrgan-v1-x2plus`" in card
    assert "`tiny` (SHA-256 `ab12`)" in card
    assert card.index("| failed | 3 |") < card.index("| upscaled | 12 |")


def test_a_dataset_written_without_a_run_has_a_card() -> None:
    assert "`unknown`" in dataset_card(Layout.PARQUET, {}, None)


def test_the_card_says_what_is_known_of_a_service() -> None:
    stages = [{"engine": "esrgan-v1-x2plus", "model": {"engine": "esrgan-v1-x2plus"}}]

    card = dataset_card(Layout.FILES, UPSCALED, {"stages": stages})

    assert "by\nthe engine `esrgan-v1-x2plus` of a service, called over gRPC." in card
    assert "unknown" not in card


def test_the_card_of_tars_has_their_fields_whatever_their_names() -> None:
    name = 'a "b" \\n: é\u0085\ud7ff\U0001f600{}[],#\x7f\0\n'
    own = pa.struct(
        [(name, pa.list_(pa.list_(pa.int8()))), ("null", pa.null()), ("x", pa.float64())]
    )
    fields = pa.schema([("png", pa.binary()), ("json", pa.struct([("input", own)]))])

    values = front_matter(dataset_card(Layout.WEBDATASET, UPSCALED, SETTINGS, fields))

    assert values["dataset_info"] == [
        {
            "config_name": "default",
            "features": [
                {"name": "png", "dtype": "image"},
                {
                    "name": "json",
                    "struct": [
                        {
                            "name": "input",
                            "struct": [
                                {"name": name, "list": {"list": {"dtype": "int8"}}},
                                {"name": "null", "dtype": "null"},
                                {"name": "x", "dtype": "float64"},
                            ],
                        }
                    ],
                },
                {"name": "__key__", "dtype": "string"},
                {"name": "__url__", "dtype": "string"},
            ],
        }
    ]


def test_without_an_image_no_fields_are_named() -> None:
    fields = pa.schema([("json", pa.string())])

    values = front_matter(dataset_card(Layout.WEBDATASET, {"failed": 3}, SETTINGS, fields))

    assert "dataset_info" not in values


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a`b``c.pth", "```a`b``c.pth```"),
        ("`a`", "`` `a` ``"),
        ("x\n---\n# title", r"`x\n---\n# title`"),
        ("caf\udce9 \x1b[1m", r"`caf\xe9 \x1b[1m`"),
        ('"quoted" [link](x) <b>', '`"quoted" [link](x) <b>`'),
    ],
)
def test_no_name_of_weights_is_markup(name: str, shown: str) -> None:
    stages = [{"engine": "e", "model": {"name": name, "weights_sha256": "0"}}]

    card = dataset_card(Layout.FILES, UPSCALED, {"stages": stages})

    assert f"with the weights {shown} (SHA-256 `0`)" in card
    assert front_matter(card)["tags"] == ["image", "super-resolution", "beam-upscale"]
    assert card.encode()
