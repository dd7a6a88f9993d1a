"""The compiled kernels as a guest: chosen when they are here, explained when they are not."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kanscan import ops
from kanscan.layers.kan import KANLinear
from kanscan.ops import dispatch, native
from kanscan.ops.bspline import bspline_basis, kan_linear
from kanscan.ops.dispatch import Backend, choose

REPOSITORY = Path(__file__).resolve().parents[2]
OPS = REPOSITORY / "src" / "kanscan" / "ops"
needs_kernels = pytest.mark.skipif(native.ABSENCE is not None, reason=f"compiled kernels: {native.ABSENCE}")


def ask(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=1800
    )


LAYER = "import torch; from kanscan.ops.bspline import kan_linear as k; a = torch.zeros; "


def test_without_kernels_torch_serves_and_the_reason_is_given() -> None:
    call = "k(a(2, 3), a(4, 3), a(4, 3, 8){})"
    works = ask(f"{LAYER}print(*{call.format('')}.shape)", KANSCAN_KERNELS="none")
    assert works.stdout == "2 4\n", works.stderr
    refused = ask(LAYER + call.format(", backend='cpu'"), KANSCAN_KERNELS="none")
    assert "kan_linear: backend 'cpu' cannot be used" in refused.stderr
    assert "KANSCAN_KERNELS=none" in refused.stderr
    shown = ask("from kanscan.commands.show import show; print(show('backends').to_dict())", KANSCAN_KERNELS="none")
    assert "cpu is absent: the environment says" in shown.stdout


def test_a_missing_or_broken_library_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "_native.so")
    assert "not built" in str(native._absence(""))
    native._library.cache_clear()
    (tmp_path / "_native.so").write_bytes(b"no library")
    assert "does not load" in str(native._absence(""))
    native._library.cache_clear()


@needs_kernels
def test_an_unknown_instruction_set_is_explained() -> None:
    assert "base" in str(native._absence("avx1024"))
    assert native.INSTRUCTION_SET in native.usable_instruction_sets()


def test_auto_takes_the_first_that_can() -> None:
    def refusal(answer: str | None, *, asked: bool) -> str | None:
        return answer

    table = {"cpu": Backend(len, refusal, lambda: None), "torch": Backend(sum)}
    assert choose("op", table, "auto", None) is len
    assert choose("op", table, "auto", "no") is sum
    with pytest.raises(ValueError, match="'cpu' cannot be used: no"):
        choose("op", table, "cpu", "no")
    with pytest.raises(ValueError, match="auto, cpu, torch"):
        choose("op", table, "cuda", None)


def test_a_switch_asks_for_one_backend_and_layers_obey() -> None:
    layer, x = KANLinear(3, 4), torch.randn(2, 3)
    with ops.backend("reference"):
        assert torch.equal(layer(x), kan_linear(x, *layer.parameters(), backend="reference"))
        with ops.backend("torch"):
            assert torch.equal(layer(x), kan_linear(x, *layer.parameters(), backend="torch"))
    with ops.backend("triton"):
        assert bspline_basis(x).shape == (2, 3, 8)
        if not torch.cuda.is_available():
            with pytest.raises(ValueError, match="'triton' cannot be used"):
                layer(x)
    with pytest.raises(ValueError, match="there are auto, torch, reference, triton, cpu"):
        ops.backend("cuda")
    assert dispatch._asked == "auto"


@needs_kernels
@pytest.mark.parametrize("own_threads", [False, True])
def test_threads_and_forks_change_nothing(own_threads: bool) -> None:
    """Some threads, torch's own or the library's, each in a process of its own: a pool cannot be taken back."""
    code = f"""
import os, torch
from kanscan.ops import native
if {own_threads}:
    native._library().kanscan_use_team(None)
else:
    assert native._team_of_torch() is not None or torch.__config__.parallel_info().find("OpenMP") < 0
from kanscan.ops.bspline import kan_linear
x, w, s = torch.randn(777, 37, requires_grad=True), torch.randn(33, 37), torch.randn(33, 37, 8)
results = []
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    y = kan_linear(x, w, s, backend="cpu")
    results.append((y, *torch.autograd.grad(y.sum(), x)))
for other in results[1:]:
    assert all(torch.equal(a, b) for a, b in zip(results[0], other))
torch.set_num_threads(1)
if os.fork() == 0:
    os._exit(0 if torch.equal(kan_linear(x, w, s, backend="cpu"), results[0][0]) else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
print("equal")
"""
    run = ask(code)
    assert run.stdout == "equal\n", run.stderr


#: Compilers of other processors, or other compilers, and what makes them compile for ARM with NEON.
CROSS_COMPILERS = {"aarch64-linux-gnu-g++": [], "clang++": ["--target=aarch64-linux-gnu"]}


@pytest.mark.parametrize("kernels", sorted(OPS.rglob("*.cpp")), ids=lambda path: str(path.relative_to(OPS)))
@pytest.mark.parametrize("compiler", CROSS_COMPILERS)
def test_the_kernels_compile_for_arm(compiler: str, kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("no aarch64-linux-gnu-g++ on the path, which brings the headers for ARM")
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on the path")
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    monkeypatch.chdir(REPOSITORY)
    flags = runpy.run_path("setup.py")["FLAGS"]
    # -O1: always-inline functions must be inlined, and it takes a third of the time.
    call = [compiler, *CROSS_COMPILERS[compiler], *flags, "-O1", "-Wall", "-Werror", "-DKANSCAN_ISA=base"]
    run = subprocess.run([*call, "-c", str(kernels), "-o", os.devnull], capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr


def test_the_sources_of_the_kernels_are_shipped() -> None:
    text = (REPOSITORY / "setup.py").read_text()
    assert "native.cpp" in text
    assert "-march=native" not in text
