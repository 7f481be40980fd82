"""Files of weights that are programs, or hold some."""

import io
import tarfile
import typing
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from small_networks import compact
from torch import Tensor, nn

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks.torch.esrgan import inspect
from beam_upscale.inference.networks.weight_files import PICKLES, SAFETENSORS


class Program(nn.Module):
    """Writes a file when it is loaded as TorchScript."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.values = torch.zeros(1)
        self.mark = mark

    def forward(self, values: Tensor) -> Tensor:
        return values

    @torch.jit.export
    def __getstate__(self) -> typing.Tuple[Tensor, str, bool]:  # noqa: UP006 (the compiler's own)
        return self.values, self.mark, self.training

    @torch.jit.export
    def __setstate__(self, state: typing.Tuple[Tensor, str, bool]) -> None:  # noqa: UP006
        self.values, self.mark, self.training = state
        torch.save(state[0], state[1])


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[bytes, Path]]:
    """A TorchScript archive, and what it writes where it is run."""
    folder = tmp_path_factory.mktemp("script")
    mark = folder / "mark"
    torch.jit.script(Program(str(mark))).save(str(folder / "a.pt"))
    mark.unlink(missing_ok=True)
    torch.jit.load(str(folder / "a.pt"))
    assert mark.exists()
    mark.unlink()
    yield (folder / "a.pt").read_bytes(), mark
    assert not mark.exists()


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        inspect(path)
    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE
    return caught.value.message


def test_what_is_wrong_with_a_file_is_said_in_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    assert "there is no such file" in refusal(path)
    path.write_bytes(b"")
    assert "it is empty, or cut off" in refusal(path)
    torch.save({"a": torch.zeros(1)}, path)
    assert "it has the weights of no network that spandrel knows" in refusal(path)
    torch.save({"a": Harmful(tmp_path / "mark")}, path)
    found = refusal(path)
    assert "it is not a pickle of tensors and plain containers alone" in found
    # PyTorch's advice is to run it.
    assert "weights_only" not in found and "\x1b" not in found


@pytest.mark.parametrize("suffix", [*PICKLES, ".PT", SAFETENSORS])
def test_torchscript_is_refused_unopened(
    tmp_path: Path, script: tuple[bytes, Path], suffix: str
) -> None:
    path, (data, mark) = tmp_path / f"a{suffix}", script
    path.write_bytes(data)

    message = refusal(path)

    assert ("TorchScript" in message) == (suffix != SAFETENSORS)
    assert not mark.exists()


def test_torchscript_is_told_wherever_it_is_in_a_file(
    tmp_path: Path, script: tuple[bytes, Path]
) -> None:
    data, mark = script
    torch.save({}, tmp_path / "sound.pt", _use_new_zipfile_serialization=False)
    sound = (tmp_path / "sound.pt").read_bytes()
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("archive/data.pkl", sound)
        archive.writestr("archive/inner.pt", data)
    for name, content in {
        "behind.pt": sound + data,
        "before.pt": data + bytes(100),
        "nested.pt": inner.getvalue(),
        "cut.pt": data[:-30],
    }.items():
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", PICKLES)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path, mark = tmp_path / f"a{suffix}", tmp_path / "mark"
    torch.save({"params": Harmful(mark)}, path, _use_new_zipfile_serialization=zipped)

    refusal(path)

    assert not mark.exists()


def test_pickled_code_in_a_tar_is_not_run(tmp_path: Path) -> None:
    import pickle

    path, mark = tmp_path / "a.pth", tmp_path / "mark"
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Harmful(mark))
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

    refusal(path)

    assert not mark.exists()


class Listed:
    """A dictionary as some tools pickle it, by the name that `typing` has for its class."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def __reduce__(self) -> tuple[object, ...]:
        return typing.OrderedDict, (list(self.values.items()),)


def test_a_dictionary_by_another_name_is_read(tmp_path: Path) -> None:
    torch.save({"params": Listed(compact(scale=2).state_dict())}, tmp_path / "a.pth")

    assert inspect(tmp_path / "a.pth").scale == 2
