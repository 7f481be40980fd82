import copy
import pickle

import pytest

from beam_upscale.dataset.layouts.definition import LayoutDefinition
from beam_upscale.dataset.layouts.layout import Layout


def test_layouts_are_public_by_name_and_by_value() -> None:
    assert {layout.name: str(layout) for layout in Layout} == {
        "FILES": "files",
        "PARQUET": "parquet",
        "WEBDATASET": "webdataset",
    }


@pytest.mark.parametrize("layout", Layout)
def test_each_layout_is_defined_in_a_module_of_its_name(layout: Layout) -> None:
    assert isinstance(layout.definition, LayoutDefinition)
    assert layout.description


@pytest.mark.parametrize("layout", Layout)
def test_a_layout_is_found_by_its_value_and_travels(layout: Layout) -> None:
    assert Layout(layout.value) is layout
    assert pickle.loads(pickle.dumps(layout)) is layout
    assert copy.deepcopy(layout) is layout


@pytest.mark.parametrize(
    ("layout", "images"),
    [
        (Layout.FILES, "images"),
        (Layout.PARQUET, "data/*.parquet"),
        (Layout.WEBDATASET, "data/*.tar"),
    ],
)
def test_images_have_their_place(layout: Layout, images: str) -> None:
    assert layout.images_path == images
    if layout.is_packed:
        assert layout.data_path(7) == images.replace("*", "000007")
