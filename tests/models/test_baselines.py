from __future__ import annotations

import pytest
import torch
from monai.networks import nets

from kanscan import create_model, load_released, released_state_dict
from kanscan.complexity import num_parameters
from kanscan.models.baselines import UNETR, DynUNet, SegResNet, SwinUNETR


def twin(name: str, dims: int) -> tuple[torch.nn.Module, dict]:
    """MONAI's own network and the options that build ours like it."""
    if name == "segresnet":
        return nets.SegResNet(dims, 8, 2, 3), {"channels": 8}
    if name == "unetr":
        made = nets.UNETR(2, 3, (32,) * dims, 4, 16, 24, 2, spatial_dims=dims)
        return made, {"image_size": 32, "channels": 4, "hidden_size": 16, "mlp_dim": 24, "num_heads": 2}
    if name == "swin_unetr":
        made = nets.SwinUNETR(2, 3, depths=(1, 1, 1, 1), feature_size=12, window_size=4, spatial_dims=dims)
        return made, {"channels": 12, "depths": (1, 1, 1, 1), "window_size": 4}
    kernels, strides = [3, 3, 3, 3], [1, 2, 2, 2]
    made = nets.DynUNet(
        dims, 2, 3, kernels, strides, strides[1:], filters=[4, 6, 8, 10], deep_supervision=True, deep_supr_num=2
    )
    return made, {"channels": (4, 6, 8, 10)}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["segresnet", "unetr", "swin_unetr", "dynunet"])
def test_values_and_keys_are_those_of_monai(name: str, dims: int) -> None:
    torch.manual_seed(0)
    theirs, options = twin(name, dims)
    options |= {"in_channels": 2, "out_channels": 3, "spatial_dims": dims}
    ours = load_released(name, theirs.state_dict(), **options)
    state = released_state_dict(ours)
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in theirs.state_dict().items())
    size = (32,) * dims if name == "unetr" else (32, 64, 32)[:dims]
    x = torch.randn(1, 2, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()(x))


def test_side_outputs_of_nnunet() -> None:
    torch.manual_seed(0)
    theirs, options = twin("dynunet", 2)
    ours = load_released("dynunet", theirs.state_dict(), in_channels=2, out_channels=3, **options).train()
    x = torch.randn(1, 2, 32, 48)
    outputs = ours.side_outputs(x)
    assert [tuple(y.shape[2:]) for y in outputs] == [(32, 48), (16, 24), (8, 12)]
    stacked = theirs.train()(x).unbind(1)
    for mine, enlarged in zip(outputs, stacked, strict=True):
        torch.testing.assert_close(torch.nn.functional.interpolate(mine, size=(32, 48)), enlarged)


@pytest.mark.parametrize(("name", "millions"), [("swin_unetr", 61.98), ("unetr", 92.58)])
def test_parameters_are_near_the_printed_ones(name: str, millions: float) -> None:
    """Printed for volumes of 96 x 96 x 96, one channel in and 14 classes; MONAI changed both since."""
    with torch.device("meta"):
        model = create_model(name, in_channels=1, out_channels=14, spatial_dims=3)
    assert num_parameters(model) / 1e6 == pytest.approx(millions, rel=0.005)


def test_without_deep_supervision_there_is_one_head() -> None:
    model = DynUNet.tiny(deep_supervision=False).eval()
    assert not any("heads" in name for name in model.state_dict())
    assert len(model.side_outputs(torch.zeros(1, 3, 16, 16))) == 1


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: SegResNet(channels=12), "take 16"),
        (lambda: SegResNet(decoder_depths=(1, 1)), "decoder_depths"),
        (lambda: SegResNet(spatial_dims=1), "spatial_dims"),
        (lambda: UNETR.tiny(image_size=30), "multiples of 16"),
        (lambda: UNETR.tiny(image_size=(32, 32, 32)), "image_size"),
        (lambda: UNETR.tiny(num_heads=3), "hidden_size"),
        (lambda: SwinUNETR.tiny(channels=20), "take 24"),
        (lambda: SwinUNETR.tiny(num_heads=(5, 2, 2, 2)), "num_heads"),
        (lambda: SwinUNETR.tiny(depths=(1, 1)), "depths"),
        (lambda: SwinUNETR.tiny(norm="layer"), "norm"),
        (lambda: DynUNet(channels=(8, 16)), "three stages"),
        (lambda: DynUNet(channels=(8, 16, 32), kernel_sizes=2), "odd"),
    ],
)
def test_illegal_options_are_named(build, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        build()


def test_sizes_that_cannot_be_normalized_or_embedded_are_refused() -> None:
    with pytest.raises(ValueError, match="32 x 64"):
        SwinUNETR.tiny(norm="instance")(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="built for images of 32 x 32"):
        UNETR.tiny()(torch.zeros(1, 3, 32, 48))
    assert SwinUNETR.tiny(norm="instance")(torch.zeros(1, 3, 32, 64)).shape == (1, 1, 32, 64)
