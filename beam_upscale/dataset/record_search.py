"""Looks for the records of finished inputs, in groups and in files of their own."""

import dataclasses
import time

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.record_groups import groups_of_shard
from beam_upscale.dataset.records import Record, latest


@dataclasses.dataclass(frozen=True)
class RecordSearch:
    """A search for records, which sees at least what was durable when it began.

    Attributes:
        dataset: the output.
        has_singles: True looks for a file of its own at each look, and so also sees those that are
            written meanwhile; False if there are none.
        begun: the time of its beginning, by `time.monotonic`.
    """

    dataset: DatasetFolder
    has_singles: bool
    begun: float

    @classmethod
    def begin(cls, dataset: DatasetFolder, *, has_late_singles: bool) -> "RecordSearch":
        """Begins a search.

        Args:
            dataset: the output.
            has_late_singles: True if workers may still write records in files of their own, as they
                do for paid results. False looks once whether an earlier run has left any.
        """
        begun = time.monotonic()
        return cls(dataset, has_late_singles or dataset.has_single_records(), begun)

    def again(self) -> "RecordSearch":
        """Returns a search that also sees the groups that are durable by now."""
        return dataclasses.replace(self, begun=time.monotonic())

    def find(self, input_id: str, shard: int) -> Record | None:
        """Returns the record that counts of a finished input; None if there is none.

        Args:
            input_id: the input's id.
            shard: the shard that the input belongs to.
        """
        groups = groups_of_shard(self.dataset.groups_uri(shard), self.begun)
        grouped = groups.find(input_id)
        if not self.has_singles:
            return grouped
        return latest(filter(None, (grouped, self.dataset.read_record(input_id))))
