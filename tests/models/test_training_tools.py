"""What trainings of other people use around a network: checkpointing, several ranks, graphs of any batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from graphs import run_plainly
from kanscan.models import MODELS
from kanscan.models.conformance import example, tiny
from models.test_contract import each

RANK = Path(__file__).parent / "one_rank.py"


@each
def test_checkpointing_gives_the_same_gradients(name: str, dims: int) -> None:
    model = tiny(MODELS[name], dims).eval()
    given = example(model, 1)
    model(*given).square().mean().backward()
    direct = {key: p.grad for key, p in model.named_parameters()}
    model.zero_grad()
    # Without a gradient on the input, as at the start of a network.
    checkpoint(model, *given, use_reentrant=False).square().mean().backward()
    for key, p in model.named_parameters():
        if direct[key] is None:
            assert p.grad is None, key
        else:
            torch.testing.assert_close(p.grad, direct[key], msg=lambda m, key=key: f"{key}: {m}")


@each
def test_a_batch_of_nothing_gives_nothing_or_is_refused(name: str, dims: int) -> None:
    model = tiny(MODELS[name], dims).eval()
    x, *rest = example(model, 2)
    nothing = (x[:0], *(t[:0] for t in rest))
    if not model.takes_no_images:
        with pytest.raises(ValueError, match="takes one image or more, got a batch of none"):
            model(*nothing)
        return
    with torch.no_grad():
        expected = model(x, *rest).shape[1:]
        assert model(*nothing).shape == (0, *expected)


@each
def test_what_gets_no_gradient_in_forward_is_declared(name: str, dims: int) -> None:
    """DistributedDataParallel waits for every other parameter."""
    model = tiny(MODELS[name], dims).train()
    torch.tanh(model(*example(model, 2))).square().mean().backward()
    dead = {key for key, p in model.named_parameters() if p.grad is None and p.requires_grad}
    assert dead <= set(model._ddp_params_and_buffers_to_ignore)
    alive = {key for key, p in model.named_parameters() if p.grad is not None}
    assert not alive & set(model._ddp_params_and_buffers_to_ignore)


@pytest.mark.slow
def test_two_ranks_agree_on_every_gradient() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANK)],
            env={**os.environ, **shared, "RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    for rank in ranks:
        out, err = rank.communicate(timeout=1200)
        assert out == "same\n", err[-3000:]


def demand_a_graph_of_any_batch(name: str, dims: int) -> None:
    model = tiny(MODELS[name], dims).eval()
    given = example(model, 2)
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in given)
    program = torch.export.export(model, given, dynamic_shapes=shapes, strict=False)
    other = example(model, 3)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*other), model(*other), rtol=1e-3, atol=1e-4)


def demand_a_graph_of_any_size(name: str, dims: int) -> None:
    model = tiny(MODELS[name], dims).eval()

    def sized(batch: int, *size: int) -> tuple[torch.Tensor, ...]:
        x = torch.randn(batch, model.in_channels, *size[:dims])
        return (x, *model.example_inputs(x.shape[2:], batch)[1:])

    given = sized(2, 64, 96, 64)
    sides = {axis + 2: model.stride[axis] * torch.export.Dim(f"n{axis}", min=1, max=64) for axis in range(dims)}
    shapes = ({0: torch.export.Dim.DYNAMIC, **sides}, *({0: torch.export.Dim.DYNAMIC} for _ in given[1:]))
    program = torch.export.export(model, given, dynamic_shapes=shapes, strict=False)
    other = sized(3, 128, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*other), model(*other), rtol=1e-3, atol=1e-4)


HERE = "from models import test_training_tools as tools"


@each
@pytest.mark.export
@pytest.mark.slow
def test_a_graph_of_any_batch(name: str, dims: int) -> None:
    run_plainly(HERE, f"tools.demand_a_graph_of_any_batch({name!r}, {dims})")


@pytest.mark.export
@pytest.mark.slow
@pytest.mark.parametrize(("name", "dims"), [("unet", 2), ("ukan", 2), ("ukan_diffusion", 2), ("segresnet", 3)])
def test_a_graph_of_any_size(name: str, dims: int) -> None:
    """Scans hold one length in a graph; convolutions and splines do not."""
    run_plainly(HERE, f"tools.demand_a_graph_of_any_size({name!r}, {dims})")
