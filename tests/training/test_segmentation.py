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
    dice, iou = image_scores(logits, label)
    # Half right; nothing there and nothing found is not applicable; something found where nothing is scores 0.
    assert dice[0].item() == pytest.approx(0.5)
    assert iou[0].item() == pytest.approx(1 / 3)
    assert dice[1].isnan()
    assert dice[2].item() == 0


def test_scores_of_several_classes_leave_out_what_does_not_apply():
    label = torch.tensor([[[0, 1, 1, 0]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 0, 0]]]), 4).movedim(-1, 1).float()
    dice, iou = image_scores(logits, label)
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


def test_side_outputs_are_trained_at_odd_sizes_too():
    task = task_of(Pixelwise(), deep_supervision=True)
    loss = task.training_step(batch_of((7, 10)), 0)
    loss.backward()
    assert task.model.conv.weight.grad.abs().sum() > 0


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
