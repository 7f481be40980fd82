"""What results are called, so that no two meet and none stands where another's folder does."""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from beam_upscale.dataset import mark
from beam_upscale.plan import OutputFormat
from beam_upscale.sorted_map import SortedMap

# What results' names may end in.
_EXTENSIONS = tuple(sorted({each.extension for each in OutputFormat}))


@dataclasses.dataclass(frozen=True)
class Wish:
    """What an input's result would be called.

    Attributes:
        input_id: the input.
        name: of its result, without extension, where no other is in the way.
        source_name: the input's own, from which others derive; relative, too.
    """

    input_id: str
    name: str
    source_name: str

    def choices(self) -> tuple[str, ...]:
        """What it may be called, best first; no other input's has the last."""
        unlike = mark(self.input_id)
        last_part = self.source_name.rpartition("/")[2]
        marked = f"{self.source_name}-{unlike}"
        return self.name, self.source_name, marked, f"{unlike}-{last_part}"


def folded(name: str) -> str:
    """Equal for names that some file system holds for one: in another case or Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def unique_names(
    wishes: Callable[[], Iterable[Wish]], reserved: SortedMap | None = None
) -> Iterator[str]:
    """Settles names, without regard to case or form: some file systems hold such names for one.

    Args:
        wishes: gives those of all inputs, in the same order each time; they are gone through twice.
        reserved: names that earlier results have, by `input_id`.

    Yields:
        The name for each wish, in order. Inputs that want the same (`a.jpg` and `a.png`) both keep
        their extension in it, and so does one whose result would stand where another's folder does.
    """
    reserved = SortedMap() if reserved is None else reserved
    wanted, wanted_twice = SortedMap(), SortedMap()
    names = _Names(reserved.values())
    for wish in wishes():
        same = folded(wish.name)
        if same in wanted:
            wanted_twice[same] = ""
        else:
            wanted[same] = ""
        names.expect(wish.name)
    for wish in wishes():
        name = reserved.get(wish.input_id)
        if name is None:
            choices = wish.choices()[1 if folded(wish.name) in wanted_twice else 0 :]
            name = next(filter(names.is_free, choices), choices[-1])
            names.take(name)
        yield name


class _Names:
    """Names in use.

    Args:
        taken: names of results that are there.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = SortedMap()
        # Only those that a file could be mistaken for.
        self._folders = SortedMap()
        for name in taken:
            self.take(name)
            self.expect(name)

    def expect(self, name: str) -> None:
        """Says that the folders on the way to a name will be there."""
        self._folders.add(
            (folder, "") for folder in _folders(folded(name)) if folder.endswith(_EXTENSIONS)
        )

    def is_free(self, name: str) -> bool:
        """Whether a result may have this name: no other has, and no file would be a folder."""
        same = folded(name)
        return (
            same not in self._taken
            and not any(f"{same}{end}" in self._folders for end in _EXTENSIONS)
            and not any(
                folder.endswith(end) and folder.removesuffix(end) in self._taken
                for folder in _folders(same)
                for end in _EXTENSIONS
            )
        )

    def take(self, name: str) -> None:
        """Puts a name to use."""
        self._taken[folded(name)] = ""


def _folders(name: str) -> Iterator[str]:
    """All folders on the way to a relative path."""
    end = name.find("/")
    while end >= 0:
        yield name[:end]
        end = name.find("/", end + 1)
