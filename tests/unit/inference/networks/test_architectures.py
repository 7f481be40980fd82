import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import compact, esrgan
from spandrel import MAIN_REGISTRY, ModelLoader
from spandrel.architectures.DnCNN import DnCNN
from spandrel.architectures.DRUNet import DRUNet
from spandrel.architectures.MMRealSR import MMRealSR
from spandrel.architectures.OmniSR import OmniSR
from spandrel.architectures.RCAN import RCAN
from spandrel.architectures.SAFMN import SAFMN
from spandrel.architectures.SPAN import SPAN
from spandrel.architectures.SwinIR import SwinIR
from torch import nn

from beam_upscale.inference.networks import architectures

State = Mapping[str, Any]

KNOWN = {
    "esrgan x1": lambda: esrgan(1),
    "esrgan x4": lambda: esrgan(4, blocks=2),
    "esrgan x8": lambda: esrgan(8),
    "esrgan x2 with unshuffle": lambda: esrgan(2, shuffle=2),
    "esrgan plus": lambda: esrgan(4, plus=True),
    "compact x2": lambda: compact(2),
}
OTHERS = {
    "DRUNet": DRUNet,
    "DnCNN": DnCNN,
    "MMRealSR": lambda: MMRealSR(num_in_ch=3, num_out_ch=3, num_feat=8, num_block=1),
    "OmniSR": OmniSR,
    "RCAN": lambda: RCAN(n_resgroups=1, n_resblocks=1),
    "SAFMN": lambda: SAFMN(dim=8),
    "SPAN": lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8),
    "SwinIR": lambda: SwinIR(depths=[1], num_heads=[1], embed_dim=4, window_size=8),
}


def real_esrgan(suffixes: tuple[str, ...] = (".weight", ".bias")) -> State:
    """Weights of x4plus's architecture by the names that Real-ESRGAN gives them."""
    network = esrgan(4).state_dict()
    names = {"model.0": "conv_first", "model.1.sub.1": "conv_body", "model.3": "conv_up1"}
    names |= {"model.6": "conv_up2", "model.8": "conv_hr", "model.10": "conv_last"}
    for dense in "123":
        for layer in "12345":
            old = f"model.1.sub.0.RDB{dense}.conv{layer}.0"
            names[old] = f"body.0.rdb{dense}.conv{layer}"
    return {f"{new}{s}": network[f"{old}{s}"] for old, new in names.items() for s in suffixes}


def bsrgan() -> State:
    """The same by BSRGAN's names."""
    changes = (("conv_body", "trunk_conv"), ("body.", "RRDB_trunk."), ("rdb", "RDB"))
    changes += (("conv_up", "upconv"), ("conv_hr", "HRconv"))
    state = dict(real_esrgan())
    for old, new in changes:
        state = {name.replace(old, new): values for name, values in state.items()}
    return state


def detected(state: State) -> str:
    """The architecture that spandrel's registry finds."""
    supported = MAIN_REGISTRY.architectures("detection")
    return next(each.architecture.id for each in supported if each.detect(state))


@pytest.mark.parametrize("name", KNOWN)
def test_known_architecture_is_the_registry_s(name: str) -> None:
    state = KNOWN[name]().state_dict()

    known = architectures._known(state)

    assert known is not None
    assert known.id == detected(state)


@pytest.mark.parametrize("make", [real_esrgan, bsrgan])
def test_esrgan_is_known_by_all_names_of_its_weights(make: Callable[[], State]) -> None:
    known = architectures._known(make())

    assert known is not None
    assert known.id == detected(make()) == "ESRGAN"


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_left_to_the_registry(name: str) -> None:
    state = OTHERS[name]().state_dict()

    assert architectures._known(state) is None
    assert detected(state) == name


@pytest.mark.parametrize("name", KNOWN)
def test_network_is_what_the_registry_loads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = KNOWN[name]().state_dict()
    expected = ModelLoader().load_from_state_dict(state)
    monkeypatch.setattr(architectures, "_is_deferred", lambda _: True)

    found = architectures._load_alone(state)

    assert found is not None
    assert type(found.model) is type(expected.model)
    for attribute in ("scale", "input_channels", "output_channels", "size_requirements", "tags"):
        assert getattr(found, attribute) == getattr(expected, attribute)
    theirs = expected.model.state_dict()
    for key, values in found.model.state_dict().items():
        torch.testing.assert_close(values, theirs[key], rtol=0, atol=0)


@pytest.mark.parametrize("more", ["de_net.body.0.0.conv1.weight", "model.2.weight", "params"])
def test_weights_with_more_than_an_esrgan_s_are_left_to_the_registry(
    more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architectures, "_is_deferred", lambda _: True)

    assert architectures._load_alone({**esrgan().state_dict(), more: torch.zeros(1)}) is None


def test_registry_that_is_imported_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been given other architectures, which it looks for first."""
    monkeypatch.setattr(architectures, "_is_deferred", lambda _: False)

    assert architectures._load_alone(esrgan().state_dict()) is None


PROGRAM = """
import sys
from pathlib import Path
from beam_upscale.inference.networks.torch import esrgan

assert esrgan.inspect(Path(sys.argv[1])).architecture == "ESRGAN"
assert "torchvision" not in sys.modules
known = set(sys.modules)

import spandrel
from spandrel.architectures.ESRGAN import ESRGAN

getattr(spandrel, "__path__"), hasattr(spandrel, "__wrapped__")
assert "torchvision" not in sys.modules
assert set(spandrel.__all__) <= set(dir(spandrel))
assert len(spandrel.MAIN_REGISTRY) > 40
assert "torchvision" in sys.modules
assert type(spandrel) is type(sys)
assert isinstance(spandrel.ModelLoader().load_from_file(sys.argv[1]).model, ESRGAN)
assert not hasattr(spandrel, "no_such_name")
import spandrel.util, spandrel.architectures.SwinIR
assert spandrel.architectures.SwinIR and spandrel.util.KeyCondition
"""


@pytest.mark.slow
def test_spandrel_can_be_used_as_ever_after_a_part_of_it(
    save: Callable[[nn.Module], Path],
) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, save(esrgan())], check=True)
