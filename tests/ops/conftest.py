"""Fixtures of the tests of ops: which implementation computes, and memory that shows what was left unwritten."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kanscan.ops import gpu, native
from ops.interpreter import DEVICE

#: Every way to compute an op: an implementation, or the instruction set of the compiled one.
WAYS = ("reference", "torch", *native.LANES, "triton")


@pytest.fixture(params=native.usable_instruction_sets())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the compiled kernels compute in one instruction set."""
    monkeypatch.setattr(native, "INSTRUCTION_SET", request.param)
    return request.param


@pytest.fixture(params=WAYS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name the implementation to ask for, once for each way to compute."""
    way = request.param
    if way == "triton":
        if gpu.ABSENCE is not None:
            pytest.skip(f"Triton kernels: {gpu.ABSENCE}")
        if DEVICE != "cpu":
            pytest.skip("with a device the kernels' own tests compare them")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    if way not in native.LANES:
        return way
    if native.ABSENCE is not None:
        pytest.skip(f"compiled kernels: {native.ABSENCE}")
    if way not in native.usable_instruction_sets():
        pytest.skip(f"this processor, or the library, has no {way}")
    monkeypatch.setattr(native, "INSTRUCTION_SET", way)
    return "cpu"


#: Numbers of each of a thread's workspaces that are spoiled: more than the sizes in tests need.
WORKSPACE_NUMBERS = 2**17


def spoil_workspaces() -> None:
    """Fill the memory that kernels keep between calls with NaN."""
    workspace = native._library()["kanscan_workspace"]
    workspace.restype, workspace.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_int64]
    for slot in range(4):
        # All bits set are a NaN.
        ctypes.memset(workspace(slot, WORKSPACE_NUMBERS), 0xFF, WORKSPACE_NUMBERS * 4)


@pytest.fixture
def unwritten_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an implementation forgets to write, or reads before it has, is NaN."""

    def spoiled(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def filled(*args: Any, **kwargs: Any) -> Tensor:
            t = create(*args, **kwargs)
            return t.fill_(float("nan")) if t.is_floating_point() else t

        return filled

    for place, name in ((Tensor, "new_empty"), (torch, "empty"), (torch, "empty_like"), (native, "scratch")):
        monkeypatch.setattr(place, name, spoiled(getattr(place, name)))
    if native.ABSENCE is not None:
        return
    call = native.call

    def called(*args: Any) -> None:
        spoil_workspaces()
        call(*args)

    monkeypatch.setattr(native, "call", called)
