"""The Triton kernels as a guest: taken on a CUDA device, explained elsewhere. None of this needs Triton."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from kanscan.commands.show import show
from kanscan.ops import absences, gpu, implementations
from kanscan.ops.bspline import kan_linear
from kanscan.ops.selective_scan import selective_scan


def test_the_ops_come_without_triton() -> None:
    code = "import sys; sys.modules['triton'] = None; from kanscan.ops import bspline, gpu; print(gpu.ABSENCE)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1800)
    assert "not installed" in run.stdout, run.stderr


def test_a_tensor_elsewhere_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ABSENCE", None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x, B = torch.ones(1, 2, 3), torch.ones(1, 4, 3)
    with pytest.raises(ValueError, match="CUDA device, and the input is on cpu"):
        selective_scan(x, x, -torch.ones(2, 4), B, B, backend="triton")
    with pytest.raises(ValueError, match="CUDA device, and the input is on cpu"):
        kan_linear(x, torch.ones(4, 3), torch.ones(4, 3, 8), backend="triton")
    assert selective_scan(x, x, -torch.ones(2, 4), B, B).shape == x.shape


def test_kernels_are_interpreted_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ABSENCE", None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert gpu.refusal(torch.ones(1), asked=True) is None
    assert "CUDA device" in str(gpu.refusal(torch.ones(1), asked=False))
    assert "interpreted" in absences()["triton"]


def test_absence_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert "not installed" in str(gpu._absence(""))
    assert "KANSCAN_TRITON=none" in str(gpu._absence("none"))
    monkeypatch.setattr(gpu, "ABSENCE", gpu._absence(""))
    with pytest.raises(ValueError, match=r"'triton' cannot be used: .* not installed"):
        kan_linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4, 3, 8), backend="triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_no_device_no_kernel_in_the_listing() -> None:
    assert "triton" in absences()
    assert not any("triton" in names for names in implementations().values())


def test_the_listing_tells_on_which_tensors_kernels_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kanscan.ops.absences", dict)
    taken = {row[0]: row[2] for row in show("backends").rows}
    assert taken["kan_linear"].startswith("triton on CUDA, elsewhere ")
    assert taken["bspline_basis"] == "torch"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_the_listing_tells_why() -> None:
    code = "from kanscan.commands.show import show; print(show('backends').to_dict())"
    environment = {**os.environ, "KANSCAN_TRITON": "none"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=1800)
    assert "triton is absent: the environment says KANSCAN_TRITON=none" in run.stdout, run.stderr
