import pytest

from beam_upscale.sources.formats.input_format import InputFormat
from beam_upscale.sources.formats.recognition import format_of, inferred


@pytest.mark.parametrize(
    ("uris", "form"),
    [
        (["/in/a.jsonl", "/in/b.NDJSON"], InputFormat.JSONL),
        (["gs://b/a.csv", "gs://b/a.tsv"], InputFormat.CSV),
        (["https://host.example/a.parquet?download=true"], InputFormat.PARQUET),
        (["/in/a-000.tar", "/in/a-001.tar"], InputFormat.WEBDATASET),
        (["/in/a.tar", "/in/a.csv"], InputFormat.FOLDER),
        (["/in/a.jpg"], InputFormat.FOLDER),
        (["/in/a.tar", "/in/a.jpg"], InputFormat.FOLDER),
        (["/in/csv"], InputFormat.FOLDER),
        ([], InputFormat.FOLDER),
    ],
)
def test_a_format_is_told_from_names(uris: list[str], form: InputFormat) -> None:
    assert inferred(uris) is form


@pytest.mark.parametrize("form", InputFormat)
def test_no_two_formats_share_an_ending(form: InputFormat) -> None:
    for ending in form.definition.endings:
        assert ending == ending.lower()
        assert format_of(f"/in/a{ending}") is form
