from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from golden.checks_baselines import count, printed_loss
from golden.figures import Figures, assert_close, figures
from kanscan import create_model
from kanscan.layers.kan import KANLinear
from kanscan.layers.kan_conv import GradientFreeKANLinear, KAConv, KANConv, SharedKANLinear
from kanscan.models import MODELS
from kanscan.models.base import Network
from kanscan.models.ukan import UKAN
from kanscan.papers import load_paper


def canonical(model: Network) -> dict[str, str]:
    """Our names -> those the figures were drawn under: U-KAN's, with u and v for the two weights of a layer."""
    naming = UKAN.tiny()
    ends = {"base_weight": "u", "spline_weight": "v"}
    names = {}
    for name in model.state_dict():
        path, _, leaf = naming.released_name(name).rpartition(".")
        names[name] = f"{path}.{ends.get(leaf, leaf)}"
    return names


def fill(model: Network, seed: int) -> None:
    """One PCG64 stream of normal numbers, read in the order of the canonical names."""
    stream = np.random.Generator(np.random.PCG64(seed))
    ours = {theirs: name for name, theirs in canonical(model).items()}
    state = model.state_dict()
    for key in sorted(ours):
        tensor, leaf = state[ours[key]], key.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            continue
        z = stream.standard_normal(tuple(tensor.flatten(1).shape if leaf == "u" else tensor.shape))
        values = {
            "u": lambda z=z: z / math.sqrt(z.shape[-1]),
            "running_var": lambda z=z: np.exp(z / 4),
            "running_mean": lambda z=z: z / 5,
            "weight": lambda z=z: 1 + z / 10,
        }
        drawn = values.get(leaf, lambda z=z: z / 10)()
        tensor.copy_(torch.from_numpy(drawn.astype(np.float32)).view_as(tensor))


def derived(dtype: torch.dtype) -> tuple[Network, Figures]:
    golden = figures("u_kan", "derived_allukan_tiny_32")
    model = create_model("all_ukan", channels=tuple(golden.meta["embed_dims"]))
    assert sum(p.numel() for p in model.parameters()) == golden.meta["n_params"]
    fill(model, golden.meta["weight_seed"])
    return model.to(dtype), golden


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_derived_values(dtype: torch.dtype, tolerance: float) -> None:
    model, golden = derived(dtype)
    with torch.no_grad():
        assert_close(model.eval()(golden["x"].to(dtype)), golden["out"], tolerance)


def test_derived_loss_and_gradients() -> None:
    """In float64 alone: a batch norm over the two values of the deepest level makes whole units of rounding."""
    model, golden = derived(torch.float64)
    logits = model.train()(golden["x_train"])
    assert_close(logits.detach(), golden["out_train"], 1e-6)
    loss = printed_loss(logits, golden["y_train"].double())
    assert loss.item() == pytest.approx(golden.meta["train_loss"], abs=1e-10)
    loss.backward()
    names = canonical(model)
    ours = {names[n]: float(p.grad.double().norm()) for n, p in model.named_parameters()}
    assert ours.keys() == set(golden["grad_keys"])
    for name, expected in zip(golden["grad_keys"], golden["grad_norm"].tolist(), strict=True):
        assert ours[name] == pytest.approx(expected, rel=1e-8, abs=1e-9), name


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        (None, 2_806_120),
        ("paper", 2_806_120),
        ("lambda", 2_842_547),
        ("linear", 2_764_561),
        ("ukan", 6_356_689),
        ("ukan_gradient_free", 6_356_689),
        ("sakan", 2_779_345),
        ("kan_everywhere", 27_492_064),
        ("kan_everywhere_wide", 30_343_264),
        ("wide", 3_091_240),
        ("wide_lambda", 3_127_667),
    ],
)
def test_parameters_of_table_2(preset: str | None, parameters: int) -> None:
    assert count("all_ukan", preset=preset) == parameters


@pytest.mark.parametrize(
    ("preset", "layers"),
    [
        ("paper", {SharedKANLinear: 12, KAConv: 31}),
        ("lambda", {SharedKANLinear: 12, KAConv: 31}),
        ("linear", {nn.Linear: 12, nn.Conv2d: 31}),
        ("ukan", {KANLinear: 12, nn.Conv2d: 31}),
        ("ukan_gradient_free", {GradientFreeKANLinear: 12, KANLinear: 12, nn.Conv2d: 31}),
        ("sakan", {SharedKANLinear: 12, nn.Conv2d: 31}),
        ("kan_everywhere", {KANLinear: 12, KANConv: 31}),
    ],
)
def test_which_layers_are_replaced(preset: str, layers: dict[type[nn.Module], int]) -> None:
    kinds = (SharedKANLinear, GradientFreeKANLinear, KANLinear, KAConv, KANConv, nn.Linear, nn.Conv2d)
    with torch.device("meta"):
        model = create_model("all_ukan", preset=preset)
    found = {kind: sum(type(m) is kind for m in model.modules()) for kind in kinds}
    assert {kind: number for kind, number in found.items() if number} == layers


def test_what_is_not_reproduced_is_said_where_the_figure_is_shown() -> None:
    rows = load_paper("all_ukan").tables["table2"].rows
    assert "Not reproduced" in rows["ALL U-KAN"].note
    assert f"{count('all_ukan'):,}" in rows["ALL U-KAN"].note
    assert f"{count('all_ukan', preset='lambda'):,}" in rows["ALL U-KAN with lambda_j"].note
    assert "NOT reproduced" in (MODELS["all_ukan"].__doc__ or "")
    # What the paper prints is cut off, not rounded.
    for preset, row in (("linear", "U-KAN_MLP"), ("ukan", "U-KAN")):
        printed = rows[row].cells[2]
        assert printed is not None
        assert math.floor(count("all_ukan", preset=preset) / 1e4) / 100 == printed.value


def test_the_linear_row_is_ukans_linear_twin() -> None:
    torch.manual_seed(0)
    twin = create_model("ukan", preset="linear", channels=(16, 16, 24)).eval()
    model = create_model("all_ukan", preset="linear", channels=(16, 16, 24)).eval()
    model.load_state_dict(twin.state_dict())
    x = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(model(x), twin(x))


def test_options_change_what_they_name() -> None:
    torch.manual_seed(0)
    plain = MODELS["all_ukan"].tiny().eval()
    x = torch.randn(2, 3, 32, 32).requires_grad_()
    y = plain(x)
    (plain_grad,) = torch.autograd.grad(y.sum(), x)
    for option, same_value in (({"spline_gradient": True}, True), ({"padding_contributes": False}, False)):
        other = MODELS["all_ukan"].tiny(**option).eval()
        other.load_state_dict(plain.state_dict())
        z = other(x)
        (grad,) = torch.autograd.grad(z.sum(), x)
        assert torch.equal(y, z) is same_value
        assert not torch.equal(plain_grad, grad)
    weighted = MODELS["all_ukan"].tiny(input_weight=True).eval()
    left = weighted.load_state_dict(plain.state_dict(), strict=False)
    assert len(left.missing_keys) == 43
    assert_close(weighted(x).detach(), y.detach(), 1e-5)


@pytest.mark.parametrize("preset", ["lambda", "linear", "ukan_gradient_free", "sakan", "kan_everywhere", "wide"])
def test_every_row_learns(preset: str) -> None:
    torch.manual_seed(0)
    options = MODELS["all_ukan"].presets[preset]
    model = MODELS["all_ukan"].tiny(**{**options, "channels": (16, 16, 32)})
    x = torch.randn(2, 3, 32, 64)
    label = (x[:, :1] > 0).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), label)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"channels": (12, 16, 24)}, "multiple of 8"),
        ({"token_layers": "sakan"}, "token_layers"),
        ({"convolutions": "conv"}, "convolutions"),
        ({"depthwise_group_width": 0}, "depthwise_group_width"),
        ({"depthwise_group_width": 3}, "divide"),
        ({"token_layers": "kan", "convolutions": "plain", "input_weight": True}, "no effect"),
        ({"token_layers": "linear", "convolutions": "plain", "spline_gradient": True}, "no effect"),
        ({"convolutions": "plain", "padding_contributes": False}, "no effect"),
        ({"convolutions": "plain", "depthwise_group_width": 16}, "no effect"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        create_model("all_ukan", **options)


def test_maps_keep_the_order_of_the_image_and_it_does_not_matter() -> None:
    torch.manual_seed(0)
    model = create_model("all_ukan", channels=(16, 16, 24)).eval()
    image = torch.randn(2, 3, 64, 32)
    orders = []

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        orders.append(all(t.is_contiguous(memory_format=torch.channels_last) for t in (*inputs, y)))

    model.encoder[2].register_forward_hook(note)
    logits = model(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, model(image), rtol=1e-4, atol=1e-5)
    assert orders == [True, False]
