"""What every network of the catalogue promises."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kanscan.models import MODELS, create_model, load_released
from kanscan.models.conformance import CHECKS, tiny

NAMES = Path(__file__).parent / "parameter_names"
VARIANTS = [(name, dims) for name, cls in MODELS.items() for dims in cls.supports]
#: Checks that take long.
SLOW = {"exports": (pytest.mark.slow, pytest.mark.export)}
each = pytest.mark.parametrize(("name", "dims"), VARIANTS, ids=[f"{n}-{d}d" for n, d in VARIANTS])


@pytest.mark.parametrize("check", [pytest.param(c, marks=SLOW.get(c, ())) for c in CHECKS])
@each
def test_a_network_keeps_its_promises(name: str, dims: int, check: str) -> None:
    CHECKS[check](MODELS[name], dims)


@each
def test_parameter_names_are_frozen(name: str, dims: int) -> None:
    """Names in files that users keep: change them and old runs cannot be read. KANSCAN_FREEZE=1 writes new ones."""
    ours = {key: list(tensor.shape) for key, tensor in tiny(MODELS[name], dims).state_dict().items()}
    path = NAMES / f"{name}_{dims}d.json"
    if os.environ.get("KANSCAN_FREEZE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(ours, indent=0) + "\n")
    assert json.loads(path.read_text()) == ours


@pytest.mark.parametrize("name", MODELS)
def test_unknown_option_and_preset_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"in_channels"):
        create_model(name, in_chanels=3)
    with pytest.raises(ValueError, match="preset"):
        create_model(name, preset="nonesuch")


def test_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'ukann': did you mean 'ukan'"):
        create_model("ukann")
    with pytest.raises(ValueError, match="unknown model"):
        load_released("nonesuch", {})


@pytest.mark.export
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ukan"])
def test_compiles_in_one_graph(name: str) -> None:
    """In a process of its own: the shape checks of the test run cannot be traced."""
    import subprocess
    import sys

    code = f"""
import torch
from kanscan.models import MODELS
torch.manual_seed(0)
model = MODELS[{name!r}].tiny().eval()
x = torch.randn(1, model.in_channels, 32, 64)
compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
with torch.no_grad():
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
model.train()
x = x.repeat(2, 1, 1, 1)
compiled(x).square().mean().backward()
assert all(p.grad is not None for p in model.parameters())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1800)
