from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from golden import recipe_km_unet, recipe_vmkla_unet
from golden.figures import Figures, assert_close, figures
from kanscan.layers.attention import (
    ChannelAttention,
    ChannelSpatialAttention,
    LinearAttention,
    SpatialAttention,
    rotate,
)
from kanscan.layers.kan import KANLinear

DTYPES = [torch.float64, torch.float32]


def fill(layer: nn.Module, names: dict[str, str], draw: Callable[..., dict[str, Tensor]], seed: int) -> None:
    """Fill a layer under the released names of its parameters, the keys of `names` being ours."""
    state = layer.state_dict()
    drawn = draw({names[name]: tensor for name, tensor in state.items()}, seed)
    layer.load_state_dict({name: drawn[names[name]] for name in state})


def check(golden: Figures, run: Callable[[Tensor], Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Compare values and the gradient of the input for a loss of random weights."""
    meta = golden.meta
    x = recipe_vmkla_unet.image(tuple(meta["input_shape"]), meta["input_seed"], meta["input_scale"]).to(dtype)
    x.requires_grad_()
    y = run(x)
    relative = 1e-6 if dtype == torch.float64 else max(1e-5, 20 * meta["float32_error"])
    assert_close(y.detach(), golden["y"], relative * float(golden["y"].abs().max()))
    weigh = recipe_vmkla_unet.image(tuple(y.shape), meta["weight_seed"] + 20000).to(dtype)
    (y * weigh).mean().backward()
    assert_close(x.grad, golden["gx"], relative * float(golden["gx"].abs().max()))
    return meta["grad_norms"]


def check_layer(name: str, layer: nn.Module, names: dict[str, str], dtype: torch.dtype, *inputs: object) -> None:
    golden = figures("vmkla_unet", name)
    fill(layer, names, recipe_vmkla_unet.weights, golden.meta["weight_seed"])
    norms = check(golden, lambda x: layer.to(dtype)(x, *inputs), dtype)
    relative = 1e-6 if dtype == torch.float64 else 1e-4
    ours = {names[n]: float(p.grad.double().norm()) for n, p in layer.named_parameters()}
    assert ours == pytest.approx(norms, rel=relative)


@pytest.mark.parametrize("dtype", DTYPES)
def test_released_channel_attention(dtype: torch.dtype) -> None:
    names = {"reduce.weight": "fc1.weight", "expand.weight": "fc2.weight"}
    check_layer("channel_attention_c64", ChannelAttention(64, pooling="average_twice"), names, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_released_spatial_attention(dtype: torch.dtype) -> None:
    check_layer("spatial_attention", SpatialAttention(), {"conv.weight": "conv1.weight"}, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_released_linear_attention(dtype: torch.dtype) -> None:
    layer = LinearAttention(16, 2, nn.Linear(16, 32), rotary="columns")
    names = {"queries_keys.weight": "qk.weight", "queries_keys.bias": "qk.bias"}
    names |= {"position.weight": "lepe.weight", "position.bias": "lepe.bias"}
    check_layer("linattn_mlla_c16_h2", layer, names, dtype, (8, 8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_released_rotation(dtype: torch.dtype) -> None:
    def run(x: Tensor) -> Tensor:
        return rotate(x.flatten(1, 2), (x.shape[1], x.shape[2]), "columns").view_as(x)

    check(figures("vmkla_unet", "rope"), run, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_released_channel_and_spatial_attention(dtype: torch.dtype) -> None:
    golden = figures("km_unet", "cbam_s3180")
    layer = ChannelSpatialAttention(16, bias=True)
    names = {
        "channel.reduce.weight": "channel_attention.shared_MLP.0.weight",
        "channel.expand.weight": "channel_attention.shared_MLP.2.weight",
        "spatial.conv.weight": "spatial_attention.conv2d.weight",
        "spatial.conv.bias": "spatial_attention.conv2d.bias",
    }
    fill(layer, names, recipe_km_unet.weights, golden.meta["seed"])
    x = recipe_km_unet.image(golden.meta["input_shape"], golden.meta["input_seed"], golden.meta["input_scale"])
    with torch.no_grad():
        y = layer.to(dtype)(x.to(dtype))
    assert_close(y, golden["y"], 1e-6 if dtype == torch.float64 else 1e-5)
    assert float(y.double().norm()) == pytest.approx(golden.meta["y_norm"], rel=1e-6)


def test_true_max_pooling_enters_the_channel_gate() -> None:
    torch.manual_seed(0)
    layer = ChannelAttention(32).double()
    x = torch.randn(2, 32, 5, 7, dtype=torch.float64)

    def bottleneck(pooled: Tensor) -> Tensor:
        hidden = torch.einsum("oc,bc->bo", layer.reduce.weight[:, :, 0, 0], pooled).clamp(min=0)
        return torch.einsum("oc,bc->bo", layer.expand.weight[:, :, 0, 0], hidden)

    expected = torch.sigmoid(bottleneck(x.mean((2, 3))) + bottleneck(x.amax((2, 3))))
    assert_close(layer(x)[:, :, 0, 0].detach(), expected.detach(), 1e-12)


@pytest.mark.parametrize("rotary", ["2d", "columns", "none"])
@pytest.mark.parametrize("rotate_normalizer", [False, True])
def test_linear_attention_is_attention_of_positive_features(rotary: str, rotate_normalizer: bool) -> None:
    """Written out with the full matrix of weights, which the layer never forms."""
    if rotary == "none" and rotate_normalizer:
        with pytest.raises(ValueError, match="rotate_normalizer"):
            LinearAttention(8, 2, nn.Linear(8, 16), rotary=rotary, rotate_normalizer=True)
        return
    torch.manual_seed(0)
    size, heads, width = (3, 5), 2, 4
    layer = LinearAttention(8, heads, nn.Linear(8, 16), rotary=rotary, rotate_normalizer=rotate_normalizer).double()
    x = torch.randn(2, 15, 8, dtype=torch.float64)
    queries, keys = (nn.functional.elu(layer.queries_keys(x)) + 1).chunk(2, dim=-1)
    turned = [rotate(t, size, rotary) for t in (queries, keys)]
    y = torch.zeros_like(x)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        weights = turned[0][..., part] @ turned[1][..., part].mT
        q, k = turned if rotate_normalizer else (queries, keys)
        total = (q[..., part] @ k[..., part].mT).sum(-1, keepdim=True)
        y[..., part] = weights @ x[..., part] / (total + 15e-6)
    y = y + layer.position(x.mT.reshape(2, 8, *size)).flatten(2).mT
    assert_close(layer(x, size).detach(), y.detach(), 1e-9)


def test_kan_makes_queries_and_keys() -> None:
    layer = LinearAttention(8, 2, KANLinear(8, 16))
    layer(torch.randn(2, 15, 8), (3, 5)).square().mean().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("rotary", ["2d", "columns"])
def test_rotation_depends_on_distances_alone(rotary: str) -> None:
    """Products of rotated tokens see how far apart the places are, not where they are; lengths stay."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64)
    turned = [rotate(t.expand(1, 20, 8), (4, 5), rotary)[0].view(4, 5, 8) for t in (q, k)]
    assert_close(turned[0].norm(dim=-1), q.norm().expand(4, 5), 1e-12)
    right = torch.einsum("hwc,hwc->hw", turned[0][:, :-1], turned[1][:, 1:])
    below = torch.einsum("hwc,hwc->hw", turned[0][:-1], turned[1][1:])
    here = torch.einsum("hwc,hwc->hw", *turned)
    for products in (right, below, here):
        assert_close(products, products[0, 0].expand_as(products), 1e-12)
    assert (right[0, 0] - here[0, 0]).abs() > 1e-3
    # Rows are invisible to the code of columns.
    assert ((below[0, 0] - here[0, 0]).abs() > 1e-3).item() is (rotary == "2d")


def test_attention_keeps_float32_under_autocast() -> None:
    torch.manual_seed(0)
    layer = LinearAttention(16, 2, nn.Linear(16, 32))
    x = torch.randn(1, 1024, 16)
    with torch.no_grad():
        exact = layer(x, (32, 32))
        with torch.autocast("cpu", torch.bfloat16):
            rough = layer(x, (32, 32))
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: ChannelAttention(8, pooling="max"), "average_max"),
        (lambda: LinearAttention(8, 3, nn.Linear(8, 16)), "num_heads"),
        (lambda: LinearAttention(6, 2, nn.Linear(6, 12)), "multiple of 4"),
        (lambda: LinearAttention(5, 1, nn.Linear(5, 10), rotary="columns"), "multiple of 2"),
        (lambda: LinearAttention(8, 2, nn.Linear(8, 16), rotary="rows"), "columns"),
    ],
)
def test_wrong_options_are_named(build: Callable[[], nn.Module], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        build()
