"""What a value of a row names."""

import pytest

from beam_upscale.sources.parsing.table_rows import resolved


@pytest.mark.parametrize(
    ("table", "value", "uri"),
    [
        ("/in/t.csv", "a.png", "/in/a.png"),
        ("/in/t.csv", "./x/../a.png", "/in/a.png"),
        ("/in/t.csv", "../a.png", "/a.png"),
        ("/in/t.csv", "x\\a.png", "/in/x/a.png"),
        ("/in/t.csv", "/a.png", "/a.png"),
        ("/in/t.csv", "file:///a.png", "/a.png"),
        ("gs://b/in/t.csv", "x/a.png", "gs://b/in/x/a.png"),
        ("gs://b/in/t.csv", "../a.png", "gs://b/a.png"),
        ("gs://b/in/t.csv", "hdfs://h/a.png", "hdfs://h/a.png"),
        ("https://h.example/in/t.csv?v=1", "a b?.png", "https://h.example/in/a%20b%3F.png"),
        ("/in/t.csv", "HTTPS:\\\\h.example\\a.png", "https:\\\\h.example\\a.png"),
        ("/in/t.csv", " http:/h.example/a.png\n", "http:/h.example/a.png"),
        ("/in/t.csv", "FILE:///a.png", "/a.png"),
        ("/in/t.csv", "S3://b/a.png ", "s3://b/a.png "),
    ],
)
def test_a_value_is_relative_to_the_tables_folder(table: str, value: str, uri: str) -> None:
    assert resolved(table, value) == uri
