"""The versions that the runners are fetched in fit each other, and the package's own lock."""

import re
from pathlib import Path
from xml.etree import ElementTree

import clusters
import fetch
import pytest
import yaml

POM = {"": "http://maven.apache.org/POM/4.0.0"}


def locked(lock: Path, name: str) -> str:
    found = re.search(rf"^{name}==(\S+)", lock.read_text(), re.M)
    assert found is not None
    return found[1]


def dependencies(engine: str) -> dict[str, str]:
    """Versions by the artifacts' names."""
    found = ElementTree.parse(fetch.HERE / engine / "pom.xml").findall(".//dependency", POM)
    return {one.findtext("artifactId", "", POM): one.findtext("version", "", POM) for one in found}


def test_prism_is_of_the_locked_version_of_beam() -> None:
    beam = locked(fetch.ROOT / "requirements.lock", "apache-beam")

    assert f"github.com/apache/beam/sdks/v2 v{beam}" in (fetch.HERE / "prism/go.mod").read_text()


def test_flink_is_of_the_minor_version_of_its_runner() -> None:
    flink = locked(fetch.HERE / "requirements.lock", "apache-flink-libraries")
    minor = flink.rpartition(".")[0]

    assert f"beam-runners-flink-{minor}" in dependencies("flink")


def test_spark_is_of_the_very_version_of_its_job_server() -> None:
    spark = locked(fetch.HERE / "requirements.lock", "pyspark")
    found = {v for name, v in dependencies("spark").items() if name.startswith("spark-")}

    assert found == {spark}


def test_job_servers_are_of_one_version_of_beam() -> None:
    versions = {
        version
        for engine in ("flink", "spark")
        for name, version in dependencies(engine).items()
        if name.startswith("beam-")
    }

    assert len(versions) == 1


@pytest.mark.parametrize("name", ["flink/config.yaml", "spark/spark-defaults.conf"])
def test_configurations_are_what_their_engines_read(name: str) -> None:
    text = (clusters.PIPELINES / name).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]

    if name.endswith(".yaml"):
        assert all(isinstance(value, str | int | float) for value in yaml.safe_load(text).values())
    else:
        assert all(re.fullmatch(r"spark\.\S+\s+\S+", line) for line in lines)


def test_image_for_workers_is_of_the_locked_version_of_beam() -> None:
    beam = locked(fetch.ROOT / "requirements.lock", "apache-beam")

    assert f"_sdk:{beam}\n" in (clusters.PIPELINES / "Dockerfile").read_text()
