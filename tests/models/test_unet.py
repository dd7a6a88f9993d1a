from __future__ import annotations

from pathlib import Path

import pytest
import torch

from golden.checks_baselines import check_eval, check_keys, check_training, count, from_reference
from golden.figures import figures
from kanscan import create_model
from kanscan.models.unet import AttentionGate

FILES = {"unet": "unet", "attention_unet": "att_unet", "unet_plus_plus": "unetpp"}
NAMES = sorted(FILES)


@pytest.mark.parametrize("name", NAMES)
def test_released_values(name: str) -> None:
    check_eval(name, figures("km_unet", f"{FILES[name]}_eval_32"), torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_released_values_at_64_and_three_training_steps(name: str) -> None:
    check_eval(name, figures("km_unet", f"{FILES[name]}_eval_64"), torch.float64)
    check_training(name, figures("km_unet", f"{FILES[name]}_train"), steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_full_vector(reference: Path, name: str) -> None:
    folder = reference / "golden" / "km_unet"
    for path in sorted(folder.glob(f"{FILES[name]}_s1*.npz")):
        check_eval(name, from_reference(path), torch.float64)
    for path in sorted(folder.glob(f"train_{FILES[name]}_s1*.npz")):
        check_training(name, from_reference(path), steps=3)


@pytest.mark.parametrize("name", NAMES)
def test_released_keys_are_complete(reference: Path, name: str) -> None:
    check_keys(name, reference, FILES[name])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("unet", 34_527_041), ("attention_unet", 34_878_573), ("unet_plus_plus", 36_629_633)],
)
def test_parameters(name: str, parameters: int) -> None:
    assert count(name) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_depth_follows_the_widths(name: str) -> None:
    model = create_model(name, in_channels=2, out_channels=5, channels=(4, 6))
    assert model.stride == (2, 2)
    assert model(torch.zeros(2, 2, 6, 10)).shape == (2, 5, 6, 10)
    with pytest.raises(ValueError, match="next legal size is 8 x 10"):
        model(torch.zeros(2, 2, 7, 10))
    with pytest.raises(ValueError, match="two stages or more"):
        create_model(name, channels=(4,))


def test_gate_against_its_formula() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(4, 2).double().eval()
    g, skip = torch.randn(2, 1, 4, 3, 5, dtype=torch.float64)
    for norm in (gate.gate_norm, gate.skip_norm, gate.weight_norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    hidden = gate.gate_norm(gate.gate_conv(g)) + gate.skip_norm(gate.skip_conv(skip))
    weight = 1 / (1 + torch.exp(-gate.weight_norm(gate.weight_conv(hidden.clamp(min=0)))))
    torch.testing.assert_close(gate(g, skip), skip * weight)


def test_nodes_read_all_earlier_nodes_of_their_row() -> None:
    nodes = create_model("unet_plus_plus", channels=(4, 6, 10)).nodes
    assert {name: node.conv1.in_channels for name, node in nodes.items()} == {
        "0_0": 3,
        "0_1": 4 + 6,
        "0_2": 4 + 4 + 6,
        "1_0": 4,
        "1_1": 6 + 10,
        "2_0": 6,
    }


def test_deep_supervision_gives_every_top_node_a_head() -> None:
    torch.manual_seed(0)
    model = create_model("unet_plus_plus", channels=(4, 6, 8, 10), deep_supervision=True).eval()
    x = torch.randn(1, 3, 16, 24)
    sides = model.side_outputs(x)
    assert [side.shape for side in sides] == [(1, 1, 16, 24)] * 3
    torch.testing.assert_close(model(x), (sides[0] + sides[1] + sides[2]) / 3)
    plain = create_model("unet_plus_plus", channels=(4, 6, 8, 10)).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "side" not in k})
    torch.testing.assert_close(plain(x), sides[0])
    model.train()
    sum(side.mean() for side in model.side_outputs(x)).backward()
    assert all(p.grad is not None for p in model.parameters())
