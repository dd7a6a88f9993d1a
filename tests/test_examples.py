from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_layer_finds_both_curves(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert load("look_at_splines").main(tmp_path) < 0.02
    assert (tmp_path / "splines.png").stat().st_size > 10_000
    assert "differ by at most" in capsys.readouterr().out
