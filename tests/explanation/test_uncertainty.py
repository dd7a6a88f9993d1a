from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kanscan.explanation.uncertainty import dropping, fit_temperature, summarize
from kanscan.layers.drop_path import DropPath
from kanscan.metrics import reliability_of


def test_agreeing_and_disagreeing_predictions() -> None:
    sure = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    other = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    half = torch.tensor([0.5, 0.5]).view(2, 1, 1)
    same = summarize([sure, sure, sure])
    assert (float(same.entropy), float(same.mutual_information), float(same.agreement)) == (0, 0, 1)
    split = summarize([sure, other])
    assert float(split.entropy) == pytest.approx(1)
    assert float(split.mutual_information) == pytest.approx(1)
    assert float(split.agreement) == 0.5
    vague = summarize([half, half])
    assert float(vague.entropy) == pytest.approx(1)
    assert float(vague.mutual_information) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="share a shape"):
        summarize([sure, sure.repeat(1, 2, 1)])
    with pytest.raises(ValueError, match="share a shape"):
        summarize([])


def test_dropping_leaves_norms_alone_and_restores() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5), DropPath(0.2), nn.Dropout(0.0)).eval()
    with dropping(model) as count:
        assert count == 2
        assert [m.training for m in model] == [False, True, True, False]
    assert not any(m.training for m in model)


def test_calibration_of_known_errors() -> None:
    probabilities = torch.tensor([0.2, 0.8]).view(2, 1, 1).expand(2, 10, 10)
    label = torch.zeros(10, 10, dtype=torch.long)
    label.view(-1)[:60] = 1
    result = reliability_of([(probabilities.numpy(), label.numpy())], bins=10)
    assert result.error == pytest.approx(0.2)
    assert result.count.sum() == 100
    assert float(result.accuracy[8]) == pytest.approx(0.6)
    assert math.isnan(float(result.accuracy[0]))


@pytest.mark.parametrize("classes", [1, 3])
def test_the_temperature_of_sharpened_logits_is_found(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(classes, 100, 100, generator=generator, dtype=torch.float64)
    two = torch.cat([torch.zeros(1, 100, 100), honest]) if classes == 1 else honest
    drawn = torch.multinomial(two.softmax(0).flatten(1).T, 1, generator=generator).view(100, 100)
    assert fit_temperature([(honest * 3, drawn)]) == pytest.approx(3, rel=0.1)
    with pytest.raises(ValueError, match="validation cases"):
        fit_temperature([])
