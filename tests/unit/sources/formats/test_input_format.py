import copy
import pickle

import pytest

from beam_upscale.sources.formats.definition import FormatDefinition
from beam_upscale.sources.formats.input_format import InputFormat


def test_formats_are_public_by_name_and_by_value() -> None:
    assert {form.name: str(form) for form in InputFormat} == {
        "FOLDER": "folder",
        "JSONL": "jsonl",
        "CSV": "csv",
        "PARQUET": "parquet",
        "WEBDATASET": "webdataset",
    }


@pytest.mark.parametrize("form", InputFormat)
def test_each_format_is_defined_in_a_module_of_its_name(form: InputFormat) -> None:
    assert isinstance(form.definition, FormatDefinition)
    assert form.description


@pytest.mark.parametrize("form", InputFormat)
def test_a_format_is_found_by_its_value_and_travels(form: InputFormat) -> None:
    assert InputFormat(form.value) is form
    assert pickle.loads(pickle.dumps(form)) is form
    assert copy.deepcopy(form) is form
