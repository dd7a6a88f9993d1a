from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from golden.checks_baselines import check_keys, count, printed_loss
from golden.figures import Figures, assert_close, figures
from golden.recipe_km_unet import image, label, weights
from kanscan import create_model, load_released, released_state_dict
from kanscan.models import MODELS
from kanscan.models.base import SegmentationModel
from kanscan.models.km_unet import SEM, MultiScaleAttention
from kanscan.ops.bspline import reference as bspline_reference
from kanscan.ops.scan_order import order_index

DTYPES = [torch.float64, torch.float32]
EVALUATED = ["km_unet_s1000_2x3x64x64", "km_unet_s1100_1x3x32x32"]
EVALUATED_LOGGED = ["km_unet_logged_s1001_2x3x64x64", "km_unet_logged_s1101_1x3x32x32"]


@pytest.fixture
def rounded_knots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The knots under which the training figures were computed: rounded once, not after each float32 operation.

    They differ from the network's own in the last bit of float32, which moves the loss by 1e-9 and, after a step of
    Adam, by 1e-6.
    """

    def knots(grid_size: int, spline_order: int, grid_range: tuple[float, float], **kind: Any) -> torch.Tensor:
        low, high = grid_range
        index = torch.arange(-spline_order, grid_size + spline_order + 1, dtype=torch.float64)
        return (index * ((high - low) / grid_size) + low).float().to(**kind)

    monkeypatch.setattr(bspline_reference, "knots", knots)


def preset_of(name: str) -> str:
    return "release_logged" if "logged" in name else "release"


def filled(name: str, seed: int, dtype: torch.dtype, **options: Any) -> SegmentationModel:
    """The released network under the weights of the recipe; the dead ones are drawn too, they are in the stream."""
    classes = options.get("out_channels", 1)
    state = weights(released_state_dict("km_unet", preset=preset_of(name), out_channels=classes), seed)
    return load_released("km_unet", state, preset=preset_of(name), **options).to(dtype)


def near(ours: torch.Tensor, golden: Figures, key: str, relative: float) -> None:
    """Compare on the lattice of the figures, in units of their largest value."""
    step = ours.shape[-1] // golden[key].shape[-1]
    scale = golden.meta.get("y_max", float(golden[key].abs().max()))
    assert_close(ours.detach()[..., ::step, ::step], golden[key], relative * scale)


@pytest.mark.parametrize("name", EVALUATED + EVALUATED_LOGGED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_released_values(name: str, dtype: torch.dtype) -> None:
    golden = figures("km_unet", name)
    # Dead weights may be there or dropped: the logits are the same.
    model = filled(name, golden.meta["seed"], dtype, unused_modules=dtype == torch.float64)
    norms: dict[str, float] = {}
    for path, module in model.named_modules():
        tap = model.released_name(path + ".").removesuffix(".")
        if tap in golden.meta["tap_norms"]:
            module.register_forward_hook(lambda _, __, y, tap=tap: norms.update({tap: float(_first(y).norm())}))
    x = image(golden.meta["input_shape"], golden.meta["input_seed"]).to(dtype)
    with torch.no_grad():
        y = model(x)
    tolerance = 1e-6 if dtype == torch.float64 else 5e-5
    near(y, golden, "y", tolerance)
    assert float(y.double().norm()) == pytest.approx(golden.meta["y_norm"], rel=tolerance)
    assert norms == pytest.approx(golden.meta["tap_norms"], rel=tolerance)


def _first(output: Any) -> torch.Tensor:
    return (output[0] if isinstance(output, tuple) else output).double()


@pytest.mark.parametrize(
    "name",
    [
        "train_km_unet_s1300_2x3x64x64",
        "train_km_unet_s1400_tiny_input_2x3x64x64",
        "train_km_unet_logged_s1301_2x3x64x64",
    ],
)
def test_released_training_steps(name: str, rounded_knots: None) -> None:
    golden = figures("km_unet", name)
    shape = golden.meta["input_shape"]
    x = image(shape, golden.meta["input_seed"], golden.meta["input_scale"]).double()
    t = label((shape[0], 1, *shape[2:]), golden.meta["seed"]).double()
    model = filled(name, golden.meta["seed"], torch.float64).train()
    fast = [p for n, p in model.named_parameters() if re.search(r"\.layers\.\d\.", n)]
    rest = [p for n, p in model.named_parameters() if not re.search(r"\.layers\.\d\.", n)]
    assert len(fast) == 36
    groups = [{"params": rest, "lr": 1e-4}, {"params": fast, "lr": 1e-2}]
    optimizer = torch.optim.Adam(groups, weight_decay=1e-4)
    for step, expected in enumerate(golden.meta["losses"]):
        optimizer.zero_grad()
        logits = model(x)
        loss = printed_loss(logits, t)
        loss.backward()
        assert loss.item() == pytest.approx(expected, abs=1e-8), step
        if step == 0:
            near(logits, golden, "y_train", 1e-6)
            check_gradients(model, golden.meta["grad_norms"])
        optimizer.step()
    with torch.no_grad():
        near(model.eval()(x), golden, "y_eval", 1e-5)


def check_gradients(model: SegmentationModel, expected: dict[str, float]) -> None:
    largest = max(expected.values())
    ours = {
        model.released_name(name): -1.0 if p.grad is None else float(p.grad.norm())
        for name, p in model.named_parameters()
    }
    assert ours.keys() == expected.keys()
    for name, norm in expected.items():
        # A bias in front of a batch norm has no gradient in theory; only rounding is left of it.
        assert ours[name] == pytest.approx(norm, rel=1e-6, abs=1e-9 * largest), name


def test_every_full_vector(reference: Path) -> None:
    found = sorted((reference / "golden" / "km_unet").glob("km_unet_*.npz"))
    assert found
    for path in found:
        golden = Figures(path)
        with torch.no_grad():
            y = filled(path.stem, golden.meta["seed"], torch.float64)(golden["x"])
        near(y, golden, "y", 1e-6)


@pytest.mark.parametrize(("preset", "keys"), [("release", "km_unet"), ("release_logged", "km_unet_logged")])
def test_released_keys_are_complete(reference: Path, preset: str, keys: str) -> None:
    check_keys("km_unet", reference, keys, preset=preset)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"preset": "release"}, 7_012_554),
        ({"preset": "release_logged"}, 7_002_778),
        ({"preset": "release", "unused_modules": False}, 5_739_009),
        ({"preset": "release_logged", "unused_modules": False}, 5_729_233),
        # With the tokenized blocks of the decoder alive and no attention that nobody uses.
        ({}, 7_012_554 - 131 - 227 - 2_147),
        # U-KAN is what is left without SEM.
        ({"sem": "none"}, 6_356_689),
    ],
)
def test_parameters(options: dict[str, Any], parameters: int) -> None:
    assert count("km_unet", **options) == parameters


def test_the_paper_is_the_default() -> None:
    model = create_model("km_unet")
    paper = create_model("km_unet", preset="paper")
    assert str(model) == str(paper)
    assert (model.sem, model.use_decoder_blocks) == ("path", True)
    assert len(model.encoder_sems) == 3
    assert len(model.decoder_sems) == 4
    for sem in (*model.encoder_sems, *model.decoder_sems):
        assert isinstance(sem.attention, MultiScaleAttention)
        assert sem.scan.ssm.discretization == "zoh"


@pytest.mark.parametrize("preset", ["release", "release_logged"])
def test_unused_parameters_are_listed_and_get_no_gradient(preset: str) -> None:
    model = MODELS["km_unet"].tiny(**MODELS["km_unet"].presets[preset])
    model(torch.randn(2, 3, 32, 64)).square().mean().backward()
    dead = {name for name, p in model.named_parameters() if p.grad is None}
    listed = {n for n, _ in model.named_parameters() if any(re.search(p, n) for p in model.unused_parameters)}
    assert dead == listed
    assert dead
    assert not MODELS["km_unet"].tiny().unused_parameters


def test_unused_parameters_are_the_dead_ones_of_the_release() -> None:
    model = create_model("km_unet", preset="release")
    dead = [p.numel() for n, p in model.named_parameters() if any(re.search(q, n) for q in model.unused_parameters)]
    assert sum(dead) == 1_273_545


def test_a_release_checkpoint_without_its_dead_weights_needs_none() -> None:
    state = released_state_dict("km_unet", preset="release", channels=(4, 8, 16, 16, 24))
    model = load_released("km_unet", state, preset="release", channels=(4, 8, 16, 16, 24), unused_modules=False)
    assert not any(name.startswith("decoder_blocks") for name in model.state_dict())
    with pytest.raises(ValueError, match="lacks"):
        load_released("km_unet", released_state_dict(model), preset="release", channels=(4, 8, 16, 16, 24))


def test_sem_stands_in_the_path_or_on_the_skips() -> None:
    x = torch.randn(1, 3, 32, 32)
    for sem, changes in (("path", True), ("skip", False)):
        model = MODELS["km_unet"].tiny(sem=sem).eval()
        deep: list[torch.Tensor] = []
        model.embeddings[1].register_forward_hook(lambda _, __, y, deep=deep: deep.append(y[0]))
        with torch.no_grad():
            model(x)
            for parameter in model.encoder_sems.parameters():
                parameter.add_(0.3)
            model(x)
        assert (not torch.equal(*deep)) is changes


def test_multi_scale_attention_against_its_formula() -> None:
    torch.manual_seed(0)
    layer = MultiScaleAttention(24).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 24, 4, 6, dtype=torch.float64)
    y = layer(x)
    w1, b1 = layer.strips.weight[:, :, 0, 0], layer.strips.bias
    for b in range(2):
        for group in range(8):
            part = x[b, 3 * group : 3 * group + 3]
            gate = torch.einsum("oc,cl->ol", w1, part.mean(2)) + b1[:, None]
            across = torch.einsum("oc,cl->ol", w1, part.mean(1)) + b1[:, None]
            directed = part * gate.sigmoid()[:, :, None] * across.sigmoid()[:, None, :]
            mean, var = directed.mean((1, 2), keepdim=True), directed.var((1, 2), keepdim=True, unbiased=False)
            directed = (directed - mean) / (var + 1e-5).sqrt()
            directed = directed * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]
            local = torch.nn.functional.conv2d(part[None], layer.local.weight, layer.local.bias, padding=1)[0]
            one, two = directed.mean((1, 2)).softmax(0), local.mean((1, 2)).softmax(0)
            weight = (one[:, None, None] * local).sum(0) + (two[:, None, None] * directed).sum(0)
            assert_close(y[b, 3 * group : 3 * group + 3], part * weight.sigmoid(), 1e-12)


@pytest.mark.parametrize("name", ["ema_c16_s3060", "ema_c128_s3070"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_released_multi_scale_attention(name: str, dtype: torch.dtype) -> None:
    golden = figures("km_unet", name)
    layer = MultiScaleAttention(golden.meta["input_shape"][1])
    check_module(layer, {"strips": "conv1x1", "local": "conv3x3", "norm": "gn"}, golden, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_released_sem(dtype: torch.dtype) -> None:
    golden = figures("km_unet", "sem_c32_s3100")
    names = {
        "scan.ssm.x_proj_weight": "ss2d.x_proj_weight",
        "scan.ssm.dt_proj_": "ss2d.dt_projs_",
        "scan.ssm.A_log": "ss2d.A_logs",
        "scan.ssm.D": "ss2d.Ds",
        "scan.": "ss2d.",
        "attention.strips": "ema.conv1x1",
        "attention.local": "ema.conv3x3",
        "attention.norm": "ema.gn",
    }
    check_module(SEM(32, True, {}), names, golden, dtype)


def check_module(layer: torch.nn.Module, names: dict[str, str], golden: Figures, dtype: torch.dtype) -> None:
    def released(name: str) -> str:
        for ours, theirs in names.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name

    drawn = weights({released(k): v for k, v in layer.state_dict().items()}, golden.meta["seed"])
    layer.load_state_dict({k: drawn[released(k)] for k in layer.state_dict()})
    shape = golden.meta["input_shape"]
    x = image(shape, golden.meta["input_seed"], golden.meta["input_scale"]).to(dtype)
    with torch.no_grad():
        y = layer.to(dtype)(x)
    tolerance = 1e-6 if dtype == torch.float64 else 5e-5
    near(y[:, :: shape[1] // golden["y"].shape[1]], golden, "y", tolerance)
    assert float(y.double().norm()) == pytest.approx(golden.meta["y_norm"], rel=tolerance)


@pytest.mark.parametrize(("orders", "first"), [("cross", [0, 0, 7, 7]), ("corners", [0, 3, 4, 7]), ("spiral", [0, 5])])
def test_scan_orders_begin_where_they_say(orders: str, first: list[int]) -> None:
    model = MODELS["km_unet"].tiny(scan_order=orders)
    for sem in (*model.encoder_sems, *model.decoder_sems):
        # A map of 2 x 4 pixels; the last pixel of its spiral, where the reversed one begins, is number 5 or 4.
        starts = [int(order_index(name, (2, 4))[0]) for name in sem.scan.orders]
        assert starts[:-1] == first[:-1]
        assert starts[-1] in (first[-1], 4) if orders == "spiral" else starts == first


def test_reweighting_begins_as_the_plain_sum() -> None:
    torch.manual_seed(1)
    plain = MODELS["km_unet"].tiny().eval()
    for name, parameter in plain.named_parameters():
        if name.endswith("ssm.D"):
            # As fresh, all directions agree on u and differ in second order only.
            torch.nn.init.normal_(parameter)
    model = MODELS["km_unet"].tiny(merge="reweight").eval()
    left = model.load_state_dict(plain.state_dict(), strict=False)
    assert left.missing_keys
    assert all("direction_weights" in key for key in left.missing_keys)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert_close(model(x), plain(x), 1e-5)
        for name, parameter in model.named_parameters():
            if "direction_weights" in name:
                parameter.normal_()
        assert (model(x) - plain(x)).abs().max() > 1e-4


def test_three_widths_stand_for_five() -> None:
    short = create_model("km_unet", channels=(32, 24, 40))
    long = create_model("km_unet", channels=(4, 8, 32, 24, 40))
    assert {k: v.shape for k, v in short.state_dict().items()} == {k: v.shape for k, v in long.state_dict().items()}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"channels": (12, 16, 24)}, "multiple of 8"),
        ({"channels": (8, 16, 24, 32)}, "five widths"),
        ({"sem": "skips"}, "skip"),
        ({"scan_order": "spirals"}, "spiral"),
        ({"merge": "mean"}, "reweight"),
        ({"discretization": "exact"}, "zoh"),
        ({"layer_kinds": ("mlp",)}, "layer_kinds"),
        ({"preset": "relase"}, "release"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        create_model("km_unet", **options)


def test_the_counted_multiply_adds(reference: Path) -> None:
    from kanscan.complexity import complexity

    for preset, key in (("release", "km_unet"), ("release_logged", "km_unet_logged")):
        known = json.loads((reference / "counts" / "km_unet.json").read_text())[key]
        cost = complexity(create_model("km_unet", preset=preset), (3, 64, 64))
        assert cost.macs - cost.scan_macs == pytest.approx(known["at_64"]["macs_total_without_scan"], rel=0.01)
        assert cost.num_parameters == known["params"]


@pytest.mark.parametrize("preset", ["paper", "spiral", "reweight", "release", "release_logged"])
def test_every_preset_learns(preset: str) -> None:
    torch.manual_seed(0)
    model = MODELS["km_unet"].tiny(**MODELS["km_unet"].presets[preset])
    x = torch.randn(2, 3, 32, 64)
    label = (torch.nn.functional.avg_pool2d(x[:, :1], 5, 1, 2) > 0).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(16):
        loss = printed_loss(model(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02


def test_either_half_of_sem_can_be_left_out() -> None:
    """The ablations the text names: each half alone has the parameters of the whole less those of the other."""
    counts = {}
    for scans, attention in ((True, True), (True, False), (False, True)):
        model = MODELS["km_unet"].tiny(scans=scans, multi_scale_attention=attention).eval()
        counts[scans, attention] = sum(p.numel() for p in model.parameters())
        assert model(torch.randn(1, 3, 32, 32)).isfinite().all()
    without = sum(p.numel() for p in MODELS["km_unet"].tiny(sem="none").parameters())
    halves = counts[True, False] + counts[False, True] - 2 * without
    assert counts[True, True] - without == halves
    assert min(counts[True, False], counts[False, True]) > without
    with pytest.raises(ValueError, match="sem='none'"):
        MODELS["km_unet"].tiny(scans=False, multi_scale_attention=False)
