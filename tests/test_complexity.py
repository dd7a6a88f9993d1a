from __future__ import annotations

import pytest
import torch
from torch import nn

from kanscan.complexity import complexity
from kanscan.models import create_model

#: (options, multiply-adds with KAN products, multiply-adds the papers' profiler sees, printed "Gflops") at 3x256x256
COUNTED = [
    ({}, 2_647_293_952, 1_752_702_976, 14.02),
    ({"preset": "small"}, 723_427_328, 467_435_520, 3.74),
    ({"preset": "large"}, 10_518_069_248, 6_888_636_416, 55.11),
    ({"layer_kinds": ("kan",)}, 2_029_748_224, 1_746_739_200, 13.97),
    ({"layer_kinds": ("linear", "kan", "kan")}, 2_374_664_192, 1_786_781_696, 14.29),
]


@pytest.mark.parametrize(("options", "macs", "profiler_macs", "printed"), COUNTED)
def test_both_conventions_of_ukan(options: dict, macs: int, profiler_macs: int, printed: float) -> None:
    with torch.device("meta"):
        model = create_model("ukan", **options)
    cost = complexity(model, (3, 256, 256))
    assert cost.macs == macs
    assert cost.profiler_macs == profiler_macs
    assert cost.paper_gflops == pytest.approx(printed, abs=0.005)


@pytest.mark.parametrize(
    ("name", "printed"),
    [("unet", 524.178948096), ("attention_unet", 533.054783488), ("unet_plus_plus", 1109.284356096)],
)
def test_the_papers_convention_of_the_baselines(name: str, printed: float) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert complexity(model, (3, 256, 256)).paper_gflops == pytest.approx(printed, abs=1e-8)


def test_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Upsample(scale_factor=2), nn.AvgPool2d(2)
    )
    cost = complexity(model, (2, 5, 6))
    assert cost.num_parameters == 2 * 4 * 9 + 4 + 8
    assert cost.macs == 5 * 6 * 4 * 2 * 9
    assert cost.profiler_macs == cost.macs + 4 * 5 * 6 * 4 + 4 * 10 * 12 + 4 * 5 * 6


def test_the_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3)).train()
    complexity(model, (3,))
    assert model.training
    assert model[0].weight.device.type == "cpu"
    assert not model[0]._forward_hooks
