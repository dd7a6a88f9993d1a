"""What every network of the catalogue promises."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kanscan.models import MODELS, create_model, load_released, released_state_dict
from kanscan.models.base import Network, SegmentationModel

NAMES = Path(__file__).parent / "parameter_names"
VARIANTS = [(name, dims) for name, cls in MODELS.items() for dims in cls.supports]
SEGMENTING = [(name, dims) for name, dims in VARIANTS if issubclass(MODELS[name], SegmentationModel)]
each_segmenting = pytest.mark.parametrize(("name", "dims"), SEGMENTING, ids=[f"{n}-{d}d" for n, d in SEGMENTING])
each = pytest.mark.parametrize(("name", "dims"), VARIANTS, ids=[f"{n}-{d}d" for n, d in VARIANTS])


def tiny(name: str, dims: int, **options: object) -> Network:
    torch.manual_seed(0)
    if len(MODELS[name].supports) > 1:
        options["spatial_dims"] = dims
    return MODELS[name].tiny(**options)


def image(model: Network, batch: int = 1, *, wide: bool = False) -> torch.Tensor:
    """A noise image of a legal size, one axis longer than the others where the network allows it."""
    size = model.image_size if getattr(model, "image_size", None) else tuple(max(s, 32) for s in model.stride)
    if wide and not getattr(model, "image_size", None):
        size = (*size[:-1], size[-1] * 2)
    return torch.randn(batch, model.in_channels, *size, generator=torch.Generator().manual_seed(1))


def inputs(model: Network, batch: int = 1, *, wide: bool = False) -> tuple[torch.Tensor, ...]:
    """What forward takes, the image first."""
    x = image(model, batch, wide=wide)
    return (x, *model.example_inputs(x.shape[2:], batch)[1:])


def outputs(model: Network, given: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return model.side_outputs(*given) if isinstance(model, SegmentationModel) else [model(*given)]


@each_segmenting
def test_logits_have_the_size_of_the_image(name: str, dims: int) -> None:
    for channels, classes in ((1, 1), (3, 4)):
        model = tiny(name, dims, in_channels=channels, out_channels=classes).eval()
        x = image(model, wide=True)
        with torch.no_grad():
            y = model(x)
            side_outputs = model.side_outputs(x)
        assert y.shape == (1, classes, *x.shape[2:])
        assert y.isfinite().all()
        assert side_outputs[0].shape == y.shape


@each
def test_wrong_inputs_are_refused_in_a_sentence(name: str, dims: int) -> None:
    model = tiny(name, dims).eval()
    x, *rest = inputs(model)
    with pytest.raises(ValueError, match="channels"):
        model(torch.cat([x, x], dim=1), *rest)
    with pytest.raises(ValueError, match="shape"):
        model(x[0], *rest)
    if max(model.stride) > 1:
        size = list(x.shape[2:])
        axis = max(range(dims), key=lambda a: model.stride[a])
        size[axis] += 1
        legal = size[axis] - 1 + model.stride[axis]
        with pytest.raises(ValueError, match=str(legal)):
            model(torch.zeros(1, model.in_channels, *size), *rest)


@each
def test_every_parameter_gets_a_gradient(name: str, dims: int) -> None:
    model = tiny(name, dims).train()
    sum(torch.tanh(y).square().mean() for y in outputs(model, inputs(model, 2, wide=True))).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None and p.requires_grad]
    unexpected = [n for n in dead if not any(re.search(pattern, n) for pattern in model.unused_parameters)]
    assert not unexpected
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@each
def test_weights_survive_a_file(name: str, dims: int, tmp_path: Path) -> None:
    model = tiny(name, dims).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "a.safetensors")
    torch.manual_seed(9)
    other = tiny(name, dims).eval()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
        other.load_state_dict(load_file(tmp_path / "a.safetensors"))
        given = inputs(model)
        assert torch.equal(model(*given), other(*given))


@each
def test_parameter_names_are_frozen(name: str, dims: int) -> None:
    """Names in files that users keep: change them and old runs cannot be read. KANSCAN_FREEZE=1 writes new ones."""
    ours = {key: list(tensor.shape) for key, tensor in tiny(name, dims).state_dict().items()}
    path = NAMES / f"{name}_{dims}d.json"
    if os.environ.get("KANSCAN_FREEZE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(ours, indent=0) + "\n")
    assert json.loads(path.read_text()) == ours


@each
def test_bf16_autocast_stays_near_float32(name: str, dims: int) -> None:
    model = tiny(name, dims).eval()
    given = inputs(model)
    with torch.no_grad():
        exact = model(*given)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(*given)
    assert (rough.float() - exact).norm() <= 0.1 * exact.norm() + 1e-3


@each
@pytest.mark.export
@pytest.mark.slow
def test_export(name: str, dims: int) -> None:
    model = tiny(name, dims).eval()
    given = inputs(model)
    program = torch.export.export(model, given, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*given), model(*given), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_released_names_are_a_bijection(name: str) -> None:
    model = tiny(name, MODELS[name].supports[0])
    state = released_state_dict(model)
    back = model.from_released(state)
    assert set(model.state_dict()) <= set(back)
    assert all(torch.equal(back[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_presets_build(name: str) -> None:
    for preset in MODELS[name].presets:
        with torch.device("meta"):
            assert isinstance(create_model(name, preset=preset), MODELS[name])


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
