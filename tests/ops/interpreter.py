"""Triton kernels in tests: on a CUDA device where there is one, in Triton's interpreter elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from kanscan.ops import gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(gpu.ABSENCE is not None, reason=f"Triton kernels: {gpu.ABSENCE}")


@pytest.fixture(scope="module", autouse=True)
def interpreted() -> Iterator[None]:
    """Let Triton interpret its kernels where no device can run them."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        yield


def relative(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.detach().cpu().double() - exact.detach()).norm() / exact.detach().norm().clamp(min=1e-2))


#: Compiles kernels for a Hopper device, which needs none at hand: what the interpreter lets pass, the compiler may not.
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

def build(kernel, absent=(), half=(), integers=(), numbers=(), **constants):
    signature, values = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants or name in absent:
            signature[name], values[(place,)] = "constexpr", constants.get(name)
        elif name.endswith("_strides"):
            signature[name] = ("i32",) * 4
        elif name in integers:
            signature[name] = "i32"
        elif name in numbers:
            signature[name] = "fp32"
        else:
            signature[name] = "*i32" if name == "order" else "*bf16" if name in half else "*fp32"
    source = ASTSource(kernel, signature, values)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"]
"""


def compiled(code: str) -> str:
    """Run `code` after `COMPILE` in a process of its own, where Triton compiles; return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE + code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1800,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
