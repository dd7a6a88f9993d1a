"""One rank of two: every network of the catalogue under DistributedDataParallel, without options.

Started by `test_training_tools.py`, which says rank and meeting place in the environment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))

from kanscan.models import MODELS
from kanscan.models.conformance import example, tiny
from models.test_contract import VARIANTS


def train(name: str, dims: int) -> None:
    model = tiny(MODELS[name], dims).train()
    wrapped = DistributedDataParallel(model)
    given = example(model, 2)
    # A rank sees other images than the other.
    given = (given[0] + 0.1 * dist.get_rank() * torch.randn_like(given[0]), *given[1:])
    # A parameter that gets no gradient shows in the second step.
    for _ in range(2):
        model.zero_grad()
        torch.tanh(wrapped(*given)).square().mean().backward()
    for key, p in model.named_parameters():
        if p.grad is not None:
            other = p.grad.clone()
            dist.broadcast(other, src=0)
            assert torch.equal(other, p.grad), f"{name}, {dims}D: {key} differs between ranks"


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name, dims in VARIANTS:
        train(name, dims)
    dist.destroy_process_group()
    print("same")
