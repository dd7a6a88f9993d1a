"""The losses against the figures of the released implementations, and what a user may do wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kanscan.config import parts
from kanscan.metrics import IGNORED
from kanscan.training.losses import (
    LOSSES,
    BCEDiceLoss,
    BCEDiceVMKLALoss,
    BoundaryDiceLoss,
    CEDiceLoss,
    CEDiceNNUNetLoss,
    DeepSupervisionLoss,
    FocalDiceLoss,
    TverskyLoss,
    make_loss,
    resize_label,
    scale_weights,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "u_kan"
NNUNET = GOLDEN.parent / "nnunet" / "loss.npz"


@pytest.fixture(scope="module")
def ukan():
    return np.load(GOLDEN / "loss.npz")


@pytest.fixture(scope="module")
def others():
    return np.load(GOLDEN / "loss_other_papers.npz")


def rows(ukan):
    logits, label = torch.from_numpy(ukan["logits"]).double(), torch.from_numpy(ukan["label"])[:, 0].long()
    one_empty = torch.from_numpy(ukan["label_empty0"])[:, 0].long()
    low = torch.full_like(logits, -5)
    return [(logits, label), (logits, one_empty), (low, label), (low, torch.zeros_like(label))]


@pytest.mark.parametrize("row", range(4))
def test_bce_dice_gives_the_released_figures(ukan, row):
    logits, label = rows(ukan)[row]
    assert BCEDiceLoss()(logits, label).item() == pytest.approx(ukan["loss"][row], abs=1e-6)
    only_bce = BCEDiceLoss(cross_entropy_weight=1, dice_weight=0)(logits, label).item()
    assert only_bce == pytest.approx(ukan["cross_entropy"][row], abs=1e-6)


@pytest.mark.parametrize("index", range(3))
def test_bce_dice_gives_the_figures_of_km_unet(others, index):
    logits = torch.from_numpy(others[f"km_unet_logits{index}"]).double()
    label = torch.from_numpy(others[f"km_unet_label{index}"])[:, 0].long()
    assert BCEDiceLoss()(logits, label).item() == pytest.approx(float(others[f"km_unet_loss{index}"]), abs=1e-6)


@pytest.mark.parametrize(("label", "loss"), [("vmkla_label", "vmkla_loss"), ("vmkla_soft_label", "vmkla_loss_soft")])
def test_bce_dice_vmkla_on_hard_and_soft_labels(others, label, loss):
    logits = torch.logit(torch.from_numpy(others["vmkla_probabilities"]))
    soft = torch.from_numpy(others[label])
    for shape in (soft, soft[:, 0]):
        assert BCEDiceVMKLALoss()(logits, shape).item() == pytest.approx(float(others[loss]), abs=1e-9)


def test_ce_dice_values_and_gradients(others):
    logits = torch.from_numpy(others["synapse_logits"]).requires_grad_()
    label = torch.from_numpy(others["synapse_label"]).long()
    loss = CEDiceLoss()(logits, label)
    loss.backward()
    assert loss.item() == pytest.approx(float(others["synapse_loss"]), abs=1e-9)
    np.testing.assert_allclose(logits.grad.numpy(), others["synapse_gradient"], atol=1e-8)
    weighted = CEDiceLoss(cross_entropy_weight=0.4, dice_weight=0.6)(logits, label)
    assert weighted.item() == pytest.approx(float(others["synapse_loss_04_06"]), abs=1e-9)


def test_several_logits_are_independent_questions_for_bce_dice():
    logits, label = torch.randn(2, 3, 5, 5), torch.randint(0, 3, (2, 5, 5))
    one_hot = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    torch.testing.assert_close(BCEDiceLoss()(logits, label), BCEDiceLoss()(logits, one_hot))


def test_volumes_have_a_loss_too():
    logits, label = torch.randn(2, 4, 3, 5, 5), torch.randint(0, 4, (2, 3, 5, 5))
    assert CEDiceLoss()(logits, label).isfinite()


def test_half_precision_does_not_overflow():
    logits = torch.full((1, 1, 512, 512), 9.0, dtype=torch.float16)
    loss = BCEDiceLoss()(logits, torch.ones(1, 512, 512, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert loss.item() < 0.01


def test_auto_follows_the_number_of_logits():
    assert type(make_loss(parts.AutoLoss(), 1)) is BCEDiceLoss
    assert type(make_loss(parts.AutoLoss(), 3)) is CEDiceLoss
    assert make_loss(parts.AutoLoss(cross_entropy_weight=0.3), 3).cross_entropy_weight == 0.3
    assert make_loss(parts.BCEDiceVMKLA()).cross_entropy_weight == 1


def test_every_loss_of_a_recipe_is_built():
    assert {*LOSSES, parts.AutoLoss} == {cls for _, _, cls in parts.LOSSES.classes()}
    for part in LOSSES:
        assert type(make_loss(part(), 3)) is LOSSES[part]


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="three classes or more"):
        make_loss(parts.CEDice(), 1)
    with pytest.raises(ValueError, match="class_weights has 2 numbers, but there are 3 classes"):
        make_loss(parts.CEDice(class_weights=(1, 2)), 3)
    with pytest.raises(ValueError, match="not all 0, got"):
        make_loss(parts.BCEDice(class_weights=(0, 0)))
    assert make_loss(parts.AutoLoss(class_weights=(1, 2, 3)), None)
    with pytest.raises(ValueError, match="are all 0: nothing"):
        make_loss(parts.AutoLoss(cross_entropy_weight=0, dice_weight=0))


def test_deep_supervision_halves_the_weight_and_drops_the_last_scale():
    assert scale_weights(1) == [1.0]
    assert scale_weights(3) == pytest.approx([2 / 3, 1 / 3, 0])
    label = torch.randint(0, 2, (2, 8, 8))
    outputs = [torch.randn(2, 1, size, size) for size in (8, 4, 2)]
    single = BCEDiceLoss()
    wanted = 2 / 3 * single(outputs[0], label) + 1 / 3 * single(outputs[1], resize_label(label, (4, 4)))
    torch.testing.assert_close(DeepSupervisionLoss(single)(outputs, label), wanted)
    # The coarsest scale does not count.
    outputs[2] = torch.full_like(outputs[2], torch.nan)
    torch.testing.assert_close(DeepSupervisionLoss(single)(outputs, label), wanted)


@pytest.mark.parametrize("kind", ["slices", "volumes"])
def test_ce_dice_nnunet_gives_its_figures_at_every_scale(kind):
    """Dice over the batch for slices and for each volume apart; nnU-Net's number lacks the 1 of 1 - Dice."""
    golden = np.load(NNUNET)
    outputs = [torch.from_numpy(golden[f"{kind}_logits{scale}"]).double() for scale in range(3)]
    outputs[0].requires_grad_()
    labels = [torch.from_numpy(golden[f"{kind}_label{scale}"]).long() for scale in range(3)]
    for logits, label, wanted in zip(outputs, labels, golden[f"{kind}_losses"], strict=True):
        assert CEDiceNNUNetLoss()(logits, label).item() - 1 == pytest.approx(wanted, abs=1e-6)
    together = sum(w * CEDiceNNUNetLoss()(*pair) for w, *pair in zip(scale_weights(3), outputs, labels, strict=True))
    assert together.item() - 1 == pytest.approx(float(golden[f"{kind}_loss"]), abs=1e-6)
    together.backward()
    np.testing.assert_allclose(outputs[0].grad.numpy(), golden[f"{kind}_gradient"], atol=1e-7)


def test_one_logit_is_two_of_which_the_first_is_zero():
    logits, label = torch.randn(2, 1, 6, 6), torch.randint(0, 2, (2, 6, 6))
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(CEDiceNNUNetLoss()(logits, label), CEDiceNNUNetLoss()(two, label))


@pytest.mark.parametrize("part", LOSSES)
@pytest.mark.parametrize("size", [(8, 6), (4, 8, 6)])
def test_ignored_pixels_change_no_loss(part, size):
    """What lies below them is unseen: other logits give the same loss, and no gradient reaches them."""
    binary = part in (parts.BCEDice, parts.BCEDiceVMKLA)
    logits = torch.randn(2, 1 if binary else 3, *size, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 2 if binary else 3, (2, *size))
    label[..., :2] = IGNORED
    loss = LOSSES[part]()(logits, label)
    loss.backward()
    assert not logits.grad[..., :2].any()
    assert logits.grad[..., 2:].any()
    other = logits.detach().clone()
    other[..., :2] = 7
    torch.testing.assert_close(LOSSES[part]()(other, label), loss)
    # As if the picture ended there; but then there would be no boundary.
    if part is not parts.BoundaryDice:
        torch.testing.assert_close(LOSSES[part]()(logits[..., 2:], label[..., 2:]), loss)
    assert LOSSES[part]()(logits, torch.full_like(label, IGNORED)).isfinite()
    supervised = DeepSupervisionLoss(LOSSES[part]())([logits, logits[..., ::2]], label)
    torch.testing.assert_close(supervised, loss)


def test_class_weights_weigh_the_pixels_of_a_class():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    weights = (0.5, 1.0, 4.0)
    wanted = torch.nn.functional.cross_entropy(logits, label, torch.tensor(weights))
    for loss in (CEDiceLoss, CEDiceNNUNetLoss):
        torch.testing.assert_close(loss(dice_weight=0, class_weights=weights)(logits, label), wanted)
    focal = FocalDiceLoss(gamma=0, dice_weight=0, class_weights=weights)
    torch.testing.assert_close(focal(logits, label), wanted)
    one, label = torch.randn(2, 1, 6, 6), torch.randint(0, 2, (2, 6, 6))
    two = torch.cat([torch.zeros_like(one), one], dim=1)
    wanted = torch.nn.functional.cross_entropy(two, label, torch.tensor([1.0, 5.0]))
    for loss in (BCEDiceLoss, CEDiceNNUNetLoss):
        given = loss(cross_entropy_weight=1, dice_weight=0, class_weights=(1, 5))(one, label)
        torch.testing.assert_close(given, wanted)


def test_tversky_counts_what_is_missed_and_what_is_too_much():
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    label[:, :2] = 1
    logits = torch.full((1, 1, 4, 4), -30.0)
    logits[:, :, 1:3] = 30.0  # one row right, one missed, one too much: TP 4, FN 4, FP 4
    for alpha, beta, exponent in ((0.5, 0.5, 1.0), (0.3, 0.7, 1.0), (0.1, 0.2, 2.0)):
        wanted = (1 - 4 / (4 + 4 * alpha + 4 * beta)) ** exponent
        given = TverskyLoss(alpha=alpha, beta=beta, exponent=exponent)(logits, label)
        assert given.item() == pytest.approx(wanted, abs=1e-5)


def test_focal_looks_at_what_is_wrong():
    label = torch.ones(1, 2, 2, dtype=torch.long)
    right, wrong = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), -2.0)

    def ratio(gamma):
        loss = FocalDiceLoss(gamma=gamma, dice_weight=0)
        return (loss(right, label) / loss(wrong, label)).item()

    assert ratio(2) == pytest.approx(ratio(0) * (0.1192 / 0.8808) ** 2, rel=1e-3)


def test_the_boundary_loss_grows_with_the_distance():
    label = torch.zeros(1, 24, 24, dtype=torch.long)
    label[:, 4:12, 4:12] = 1

    def loss(shift):
        logits = torch.full((1, 1, 24, 24), -30.0)
        logits[:, :, 4 + shift : 12 + shift, 4:12] = 30.0
        return BoundaryDiceLoss(cross_entropy_weight=0, dice_weight=0)(logits, label).item()

    assert loss(0) < 1e-3 < loss(1) < loss(4) < loss(8)
