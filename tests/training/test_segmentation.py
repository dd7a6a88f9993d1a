"""One training step: scores, sizes, random streams, and what cannot be trained."""

import pytest
import torch
from torch import nn

from kanscan.config.parts import OPTIMIZERS
from kanscan.models import create_model
from kanscan.training.losses import BCEDiceLoss, CEDiceLoss
from kanscan.training.segmentation import (
    Averages,
    SegmentationTask,
    check_batch_norm,
    epoch_seed,
    image_scores,
)


class Pixelwise(nn.Module):
    """A 1x1 convolution with a stride of its own choice and a second, coarser output."""

    def __init__(self, out_channels=1, stride=4):
        super().__init__()
        self.conv = nn.Conv2d(3, out_channels, 1)
        self.stride = (stride, stride)
        self.seen = []

    def forward(self, x):
        assert all(size % self.stride[0] == 0 for size in x.shape[2:])
        self.seen.append(x.detach())
        return self.conv(x)

    def side_outputs(self, x):
        full = self(x)
        return [full, full[..., ::2, ::2]]


def task_of(model, loss=None, **options):
    return SegmentationTask(
        model,
        loss or BCEDiceLoss(),
        OPTIMIZERS.validate({"lr": 0.1, "schedule": "constant"}),
        1,
        **options,
    )


def batch_of(size=(8, 8), count=2):
    label = torch.zeros(count, *size, dtype=torch.long)
    label[:, : size[0] // 2] = 1
    return {"image": torch.randn(count, 3, *size), "label": label, "id": [f"case{i}" for i in range(count)]}


def test_scores_of_one_logit():
    label = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]])
    logits = torch.tensor([[[[1.0, -1, 1, -1]]], [[[-1.0, -1, -1, -1]]], [[[-1.0, -1, -1, 1]]]])
    dice, iou = image_scores(logits, label).values()
    # Half right; nothing there and nothing found is not applicable; something found where nothing is scores 0.
    assert dice[0].item() == pytest.approx(0.5)
    assert iou[0].item() == pytest.approx(1 / 3)
    assert dice[1].isnan()
    assert dice[2].item() == 0


def test_scores_of_several_classes_leave_out_what_does_not_apply():
    label = torch.tensor([[[0, 1, 1, 0]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 0, 0]]]), 4).movedim(-1, 1).float()
    dice, iou = image_scores(logits, label).values()
    assert dice.item() == pytest.approx(2 / 3)
    assert iou.item() == pytest.approx(1 / 2)


def test_averages_count_images_and_skip_nan():
    sums = Averages()
    sums.add({"dice": torch.tensor([1.0, torch.nan])})
    sums.add({"dice": torch.tensor([0.0, 0.5, 0.0])})
    assert sums.means() == {"dice": pytest.approx(1.5 / 4)}
    assert Averages().means() == {}


@pytest.mark.parametrize("size", [(8, 8), (9, 6), (5, 12)])
def test_any_size_is_padded_for_the_network_and_cropped_back(size):
    model = Pixelwise()
    image = torch.randn(2, 3, *size)
    logits = task_of(model).logits(image)
    assert logits.shape == (2, 1, *size)
    torch.testing.assert_close(logits, model.conv(image))
    padded = model.seen[0]
    torch.testing.assert_close(padded[..., -1, -1], image[..., -1, -1])


class Wide(nn.Module):
    """One 1x1 convolution that takes multiples of 16 only; its outputs are the full one and halves of it."""

    stride = (16, 16)

    def __init__(self, scales):
        super().__init__()
        self.conv, self.scales = nn.Conv2d(3, 1, 1), scales

    def forward(self, x):
        return self.conv(x)

    def side_outputs(self, x):
        full = self(x)
        return [full[..., :: 2**k, :: 2**k] for k in range(self.scales)]


@pytest.mark.parametrize("size", [(20, 20), (32, 32), (17, 40)])
def test_padding_counts_neither_with_side_outputs_nor_without(size):
    torch.manual_seed(0)
    batch = batch_of(size)
    model = Wide(scales=1)
    plain = task_of(model).training_step(batch, 0)
    torch.testing.assert_close(task_of(model, deep_supervision=True).training_step(batch, 0), plain)


def test_padding_is_left_out_at_coarser_scales_too():
    torch.manual_seed(0)
    batch, model = batch_of((20, 24)), Wide(scales=3)
    outputs = model.side_outputs(torch.nn.functional.pad(batch["image"], (0, 8, 0, 12)))
    side_loss = task_of(model, deep_supervision=True).side_loss
    before = side_loss(outputs, batch["label"])
    spoiled = [output.clone() for output in outputs]
    for k, output in enumerate(spoiled):
        output[..., 20 // 2**k :, :] = output[..., 24 // 2**k :] = 9.0
    torch.testing.assert_close(side_loss(spoiled, batch["label"]), before)
    before.backward()
    assert model.conv.weight.grad.abs().sum() > 0


def test_validation_adds_loss_and_scores_of_each_image():
    task = task_of(Pixelwise(3), CEDiceLoss())
    task.validation_step(batch_of(count=3), 0)
    figures = task.epoch_figures()
    assert 0 <= figures["val_dice"] <= 1
    assert figures["val_loss"] > 0
    assert figures["train_loss"] is None


def test_a_loss_that_is_no_number_names_the_cases():
    batch = batch_of()
    batch["image"][0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"loss became nan in epoch 1 on the cases case0, case1.*clip_norm"):
        task_of(Pixelwise()).training_step(batch, 0)


def test_a_single_value_for_batch_norm_is_explained():
    model = create_model("ukan", channels=(16, 16, 24))
    check_batch_norm(model, 2, (3, 32, 32))
    check_batch_norm(model, 1, (3, 64, 64))
    with pytest.raises(ValueError, match=r"trainer\.batch_size to 2 or more"):
        check_batch_norm(model, 1, (3, 32, 32))
    with pytest.raises(ValueError, match=r"trainer\.batch_size to 2 or more"):
        task_of(model.train()).training_step(batch_of((32, 32), count=1), 0)


def test_epochs_and_seeds_have_streams_of_their_own():
    seeds = {epoch_seed(seed, epoch) for seed in range(20) for epoch in range(500)}
    assert len(seeds) == 20 * 500
