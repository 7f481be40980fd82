"""Groups of records: one object for many inputs, found again by each of them."""

import dataclasses
import os
import threading
from decimal import Decimal
from pathlib import Path

import pytest

from beam_upscale.dataset import record_groups
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.record_groups import group_of, groups_of_shard, shards_with_groups
from beam_upscale.dataset.record_search import RecordSearch
from beam_upscale.dataset.records import (
    Edition,
    PackedImage,
    Record,
    Telemetry,
    latest,
    record_from_json,
)

TELEMETRY = Telemetry(0.5, 0.1, 1, 1, "worker:1", 1e9)


def record(input_id: str, number: int = 0, hold: int = 0, **columns: object) -> Record:
    row = Row(input_id, input_id, Status.FAILED, **columns)
    return Record(row, TELEMETRY, Edition(number, hold))


def write(dataset: DatasetFolder, shard: int, *records: Record) -> str:
    """Leaves a group; returns its URI."""
    name, content = group_of(records)
    uri = f"{dataset.groups_uri(shard)}/{name}"
    dataset.write(uri, content)
    return uri


def found(dataset: DatasetFolder, input_id: str, shard: int = 0) -> Record | None:
    return RecordSearch.begin(dataset, has_late_singles=False).find(input_id, shard)


ODD_IDS = ["a", "line\nbreak", "snow ☃", '"quoted"', "../x"]


def test_each_record_of_a_group_is_found_with_all_that_it_holds(dataset: DatasetFolder) -> None:
    packed = PackedImage("000000/x.images", 5, 10)
    records = [
        dataclasses.replace(record(each, 2, 7, billed_credits=Decimal("0.2")), packed=packed)
        for each in ODD_IDS
    ]

    write(dataset, 0, *records)

    for each in records:
        again = found(dataset, each.row.input_id)
        assert again == each
        assert (again.edition, again.packed) == (Edition(2, 7), packed)
    assert found(dataset, "b") is None
    assert found(dataset, "a", shard=1) is None
    assert {each.row.input_id for each in dataset.read_records()} == set(ODD_IDS)


def test_a_group_that_is_written_twice_is_one(dataset: DatasetFolder) -> None:
    uris = {write(dataset, 0, record("a"), record("b")) for _ in range(2)}

    assert len(uris) == 1
    assert len(list(Path(dataset.groups_uri(0)).iterdir())) == 1


def test_groups_of_others_are_seen_by_a_search_that_begins_later(dataset: DatasetFolder) -> None:
    before = RecordSearch.begin(dataset, has_late_singles=False)
    assert before.find("a", 0) is None
    write(dataset, 0, record("a"))

    assert before.find("a", 0) is None
    assert before.again().find("a", 0) == record("a")


@pytest.fixture
def read_uris(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URIs of the groups that are read, in order; nothing is known when the test begins."""
    monkeypatch.setattr(record_groups, "_kept", record_groups._Kept())
    read, uris = record_groups.files.read_if_there, []

    def counted(uri: str) -> bytes | None:
        uris.append(uri)
        return read(uri)

    monkeypatch.setattr(record_groups.files, "read_if_there", counted)
    return uris


def test_a_group_is_read_once(dataset: DatasetFolder, read_uris: list[str]) -> None:
    first = write(dataset, 0, record("a"))
    assert found(dataset, "a")
    second = write(dataset, 0, record("b"))

    assert found(dataset, "a") and found(dataset, "b")
    assert read_uris == [first, second]


def test_groups_of_shards_that_do_not_fit_together_are_read_at_most_twice(
    dataset: DatasetFolder, read_uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_groups, "_MOST_BYTES", 5000)
    for shard in (0, 1):
        for group in range(5):
            records = (record(f"{shard}-{group}-{n}", notes=("x" * 200,)) for n in range(4))
            write(dataset, shard, *records)

    def looks(*, beyond: bool) -> None:
        """Looks in both shards in turn; beyond those that are there, or for each of them."""
        for group, n in ((group, n) for group in range(5) for n in range(4)):
            for shard in (0, 1):
                name = f"{shard}-{group}-{n}" + ("-other" if beyond else "")
                assert (found(dataset, name, shard) is None) == beyond

    for _ in range(3):
        looks(beyond=True)
    assert len(read_uris) == len(set(read_uris)) == 10
    looks(beyond=False)
    assert max(map(read_uris.count, read_uris)) <= 2


def test_the_inputs_that_are_known_are_bounded(
    dataset: DatasetFolder, read_uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_groups, "_MOST_INPUTS", 10)
    for shard in range(20):
        write(dataset, shard, record(f"{shard}"), record(f"{shard}-b"))

    for shard in [*range(20), *range(20)]:
        assert found(dataset, f"{shard}", shard)

    assert len(record_groups._kept._shards) == 5
    assert len(read_uris) == 20


def test_groups_that_are_gone_are_forgotten(dataset: DatasetFolder) -> None:
    Path(write(dataset, 0, record("a"))).unlink()
    uri = write(dataset, 0, record("b"))
    assert found(dataset, "b")
    Path(uri).unlink()
    write(dataset, 0, record("c"))

    assert [found(dataset, each) for each in "ab"] == [None, None]
    assert found(dataset, "c") == record("c")


def test_memory_for_groups_is_bounded(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_groups, "_MOST_BYTES", 2000)
    monkeypatch.setattr(record_groups, "_kept", record_groups._Kept())
    for shard in range(20):
        write(dataset, shard, record(f"{shard}", notes=("x" * 500,)))

    for shard in [*range(20), *range(20)]:
        assert found(dataset, f"{shard}", shard)

    assert 0 < record_groups._kept.objects.bytes <= 2000


def test_threads_that_look_at_once_see_the_same(dataset: DatasetFolder) -> None:
    write(dataset, 0, *(record(f"{number}") for number in range(200)))
    seen: list[int] = []

    def look() -> None:
        search = RecordSearch.begin(dataset, has_late_singles=False)
        seen.append(sum(search.find(f"{number}", 0) is not None for number in range(200)))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert seen == [200] * 8


def test_a_forked_child_takes_over_no_lock(dataset: DatasetFolder) -> None:
    write(dataset, 0, record("a"))
    groups = groups_of_shard(dataset.groups_uri(0), 0)
    with groups._lock:
        child = os.fork()
        if not child:
            os._exit(0 if found(dataset, "a") else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_shards_with_groups_are_named_in_order(dataset: DatasetFolder) -> None:
    assert list(shards_with_groups(dataset.groups)) == []
    for shard in (10, 2):
        write(dataset, shard, record("a"))

    assert list(shards_with_groups(dataset.groups)) == ["000002", "000010"]


# Which of several counts


def upscaled(number: int, hold: int = 0, **columns: object) -> Record:
    return Record(Row("a", "a", Status.UPSCALED, **columns), TELEMETRY, Edition(number, hold))


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        pytest.param(upscaled(0), record("a", 1), id="it saw the other"),
        pytest.param(record("a", 1), upscaled(2), id="it saw the other, and made an image"),
        pytest.param(upscaled(1, 1), record("a", 1, 2), id="of a run that took over"),
        pytest.param(record("a", 1, 1), upscaled(1, 1), id="an image beside a failure"),
        pytest.param(upscaled(0, 9), record("a", 1, 1), id="holds that are counted anew"),
    ],
)
def test_of_several_records_the_choice_does_not_depend_on_their_order(
    dataset: DatasetFolder, older: Record, newer: Record
) -> None:
    assert latest([older, newer]) is latest([newer, older]) is newer

    for each in (newer, older):
        write(dataset, 0, each)
    assert found(dataset, "a") == newer
    assert list(dataset.read_records()) == [newer]


def test_of_equals_one_is_chosen_always(dataset: DatasetFolder) -> None:
    twins = [
        dataclasses.replace(upscaled(0), telemetry=dataclasses.replace(TELEMETRY, worker=each))
        for each in "abc"
    ]

    chosen = [latest(order) for order in (twins, twins[::-1], [*twins[1:], twins[0]])]

    assert chosen == [chosen[0]] * 3
    assert latest([]) is None


# Records in files of their own: of paid results, and of the version before


def test_records_of_the_version_before_are_found_and_replaced(dataset: DatasetFolder) -> None:
    old = b'{"row": {"input_id": "a", "source_uri": "a", "status": "failed"}, "telemetry": null}'
    dataset.write(dataset.record_uri("a"), old)
    dataset.write(dataset.record_uri("b"), old.replace(b'"a"', b'"b"'))
    assert found(dataset, "a") == record_from_json(old)

    write(dataset, 0, upscaled(1))

    assert found(dataset, "a") == upscaled(1)
    assert {each.row.input_id: each.row.status for each in dataset.read_records()} == {
        "a": Status.UPSCALED,
        "b": Status.FAILED,
    }
    assert [row.input_id for row in dataset.unfinished_rows()] == ["a", "b"]


def test_late_records_in_files_of_their_own_are_seen_where_they_may_come(
    dataset: DatasetFolder,
) -> None:
    late, once = (RecordSearch.begin(dataset, has_late_singles=each) for each in (True, False))
    dataset.write(dataset.record_uri("a"), record("a").to_json())

    assert late.find("a", 0) == record("a")
    assert once.find("a", 0) is None
