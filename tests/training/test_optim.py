"""Parameter groups by type, schedules and real optimizer steps against the released figures."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from golden.figures import assert_close, figures
from golden.recipe_u_kan import weights
from kanscan.config.parts import SGD, Adam, AdamW, Constant, Cosine, Polynomial
from kanscan.layers.kan import KANLinear
from kanscan.layers.spline import kan_parameters
from kanscan.models import create_model, released_state_dict
from kanscan.models.released import load_into
from kanscan.ops.bspline import kan_linear
from kanscan.training.losses import BCEDiceLoss
from kanscan.training.optim import (
    learning_rates,
    make_optimizer,
    make_schedule,
    parameter_groups,
)


def test_groups_by_type_hold_every_parameter_once():
    model = create_model("ukan", preset="base")
    groups = {group["name"]: group for group in parameter_groups(model, lr=1e-4, kan_lr=1e-2)}
    assert sum(p.numel() for p in groups["kan"]["params"]) == 3_993_600
    assert sum(p.numel() for g in groups.values() for p in g["params"]) == 6_356_689
    assert len(groups["kan"]["params"]) == 36
    assert (groups["kan"]["lr"], groups["other"]["lr"]) == (1e-2, 1e-4)


@pytest.mark.parametrize(
    ("name", "preset", "kan", "other"),
    [("ukan", "base", 36, 138), ("all_ukan", None, 86, 76), ("vmkla_unet", "release", 42, 397)],
)
def test_every_kind_of_spline_layer_takes_its_own_rate(name, preset, kan, other):
    with torch.device("meta"):
        model = create_model(name, preset=preset)
    groups = {g["name"]: (len(g["params"]), g["lr"]) for g in parameter_groups(model, lr=1e-4, kan_lr=1e-2)}
    assert groups == {"other": (other, 1e-4), "kan": (kan, 1e-2)}


def test_a_name_does_not_make_a_kan_layer():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.kan_layer_fc1 = nn.Linear(2, 2)
            self.plain = KANLinear(2, 2)

    model = Layer()
    assert {id(p) for p in kan_parameters(model)} == {id(p) for p in model.plain.parameters()}


def test_a_network_without_splines_has_one_group_and_frozen_weights_none():
    model = create_model("ukan", channels=(16, 16, 24), layer_kinds=("linear",))
    (group,) = parameter_groups(model, lr=1e-4, kan_lr=1e-2)
    assert group["name"] == "other"
    for p in model.parameters():
        p.requires_grad_(False)
    assert parameter_groups(model, lr=1e-4) == []


def test_without_its_own_rate_a_kan_layer_takes_the_common_one():
    rates = [group["lr"] for group in parameter_groups(KANLinear(2, 2), lr=3e-4, kan_lr=None)]
    assert rates == [3e-4]


@pytest.mark.parametrize(("part", "kind"), [(Adam, "Adam"), (AdamW, "AdamW"), (SGD, "SGD")])
def test_optimizers_by_name(part, kind):
    optimizer = make_optimizer(KANLinear(2, 2), part(weight_decay=0.05, kan_lr=0.3))
    assert type(optimizer).__name__ == kind
    assert all(group["weight_decay"] == 0.05 for group in optimizer.param_groups)
    assert [group["lr"] for group in optimizer.param_groups] == [0.3]


def test_options_reach_the_optimizer():
    (group,) = make_optimizer(nn.Linear(1, 1), SGD(lr=0.2, momentum=0.5, nesterov=True)).param_groups
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.2, 0.5, True)
    (group,) = make_optimizer(nn.Linear(1, 1), AdamW(betas=(0.8, 0.9), eps=1e-3)).param_groups
    assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-3)


def rates_by_epoch(optimizer, schedule, epochs):
    rows = []
    for _ in range(epochs):
        rows.append(learning_rates(optimizer))
        optimizer.step()
        schedule.step()
    return np.array(rows)


def two_groups(lr=1e-4, kan_lr=1e-2):
    return make_optimizer(nn.Sequential(nn.Linear(1, 1), KANLinear(1, 1)), Adam(lr=lr, kan_lr=kan_lr))


@pytest.mark.parametrize("part", [Adam, AdamW])
def test_one_pass_over_each_parameter_gives_the_plain_steps(part):
    def trained(**options):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        optimizer = make_optimizer(model, part(lr=0.1, weight_decay=0.01))
        assert optimizer.defaults["fused"] is True
        for group in optimizer.param_groups:
            group.update(options)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    torch.testing.assert_close(trained(), trained(fused=False))


def test_cosine_gives_the_released_rates():
    golden = figures("u_kan", "lr")["u_kan"].numpy()  # columns: KAN, other
    optimizer = two_groups()
    ours = rates_by_epoch(optimizer, make_schedule(optimizer, Cosine(), 400), 401)
    np.testing.assert_allclose(ours, golden[:, ::-1], rtol=0, atol=1e-9)


def test_cosine_climbs_back_as_vmkla_trains():
    golden = figures("u_kan", "lr")["vmkla"].numpy()
    optimizer = make_optimizer(nn.Linear(1, 1), Adam(lr=1e-4))
    ours = rates_by_epoch(optimizer, make_schedule(optimizer, Cosine(schedule_epochs=50), 300), 300)
    np.testing.assert_allclose(ours[:, 0], golden, rtol=0, atol=1e-9)
    # One group: its rate is shown for both.
    np.testing.assert_array_equal(ours[:, 0], ours[:, 1])


def test_polynomial_and_constant():
    optimizer = two_groups()
    ours = rates_by_epoch(optimizer, make_schedule(optimizer, Polynomial(), 10), 10)
    wanted = (1 - np.arange(10) / 10) ** 0.9
    np.testing.assert_allclose(ours, np.outer(wanted, [1e-4, 1e-2]), rtol=1e-9)
    optimizer = two_groups()
    ours = rates_by_epoch(optimizer, make_schedule(optimizer, Constant(), 10), 12)
    np.testing.assert_array_equal(ours, np.tile([1e-4, 1e-2], (12, 1)))


def test_schedules_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"optim\.min_lr=1e-05 is above the learning rate 1e-06"):
        make_schedule(two_groups(lr=1e-6), Cosine(), 3)


def test_five_optimizer_steps_end_where_the_released_training_ends(monkeypatch):
    # The released knots are rounded to float32, and Adam turns that rounding into whole steps where gradients
    # are close to zero: only the definition, which rounds its knots likewise, can be followed for five steps.
    monkeypatch.setattr("kanscan.layers.kan.kan_linear", partial(kan_linear, backend="reference"))
    golden = figures("u_kan", "train_steps")
    model = create_model("ukan", preset="small")
    load_into(model, weights(released_state_dict(model), 601))
    model.double().train()
    images = 0.006 * np.random.Generator(np.random.PCG64(602)).standard_normal((5, 2, 3, 64, 64))
    images = torch.from_numpy(images.astype(np.float32)).double()
    labels = np.unpackbits(golden["label_bits"].numpy()).reshape(5, 2, 64, 64)
    optimizer = make_optimizer(model, Adam())
    schedule = make_schedule(optimizer, Cosine(), 10)
    losses = []
    for image, label in zip(images, torch.from_numpy(labels).long(), strict=True):
        loss = BCEDiceLoss()(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, golden["losses"].numpy(), rtol=0, atol=1e-8)

    model.eval()
    with torch.no_grad():
        output = model(images[0])
    assert_close(output[..., ::4, ::4], golden["output_every_4"], 1e-5)
    assert output.norm().item() == pytest.approx(float(golden["output_norm"]), rel=1e-4)
    norms = {model.released_name(name): p.norm().item() for name, p in model.named_parameters()}
    for name, wanted in zip(golden["parameter_names"], golden["parameter_norms"], strict=True):
        assert norms[name] == pytest.approx(float(wanted), rel=1e-4, abs=1e-6), name
