from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kanscan import create_model, load_released, released_state_dict

TINY = {"channels": (16, 16, 24)}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {key: tensor.clone() for key, tensor in released_state_dict("ukan", **TINY).items()}


def same(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    ours = released_state_dict(model)
    return set(ours) == set(state) and all(torch.equal(ours[key], state[key]) for key in state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model."])
def test_prefixes_are_stripped(state: dict, prefix: str) -> None:
    assert same(load_released("ukan", {prefix + key: t for key, t in state.items()}, **TINY), state)


@pytest.mark.parametrize("nest", ["state_dict", "model", "network_weights", "model_state_dict"])
def test_nested_checkpoints_are_opened(state: dict, nest: str, tmp_path: Path) -> None:
    torch.save({nest: state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "a.pth")
    assert same(load_released("ukan", tmp_path / "a.pth", **TINY), state)


def test_profiler_leftovers_are_ignored(state: dict) -> None:
    extra = {"encoder1.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    assert same(load_released("ukan", state | extra, **TINY), state)


def test_safetensors(state: dict, tmp_path: Path) -> None:
    save_file({key: t.contiguous() for key, t in state.items()}, tmp_path / "a.safetensors")
    assert same(load_released("ukan", tmp_path / "a.safetensors", **TINY), state)


def test_our_own_names_load_too(state: dict) -> None:
    model = load_released("ukan", state, **TINY)
    assert same(load_released("ukan", model.state_dict(), **TINY), state)


def test_missing_step_counters_are_forgiven(state: dict) -> None:
    old = {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")}
    load_released("ukan", old, **TINY)


def test_nothing_matches(tmp_path: Path) -> None:
    torch.save({"foo.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth matches nothing in UKAN.*foo\.weight"):
        load_released("ukan", tmp_path / "other.pth", **TINY)


def test_other_sizes_are_named(state: dict) -> None:
    with pytest.raises(ValueError, match="pass the options"):
        load_released("ukan", state, channels=(16, 24, 24))


def test_missing_and_extra_tensors_are_named(state: dict) -> None:
    state["stranger"] = state.pop("final.bias")
    with pytest.raises(ValueError, match=r"lacks 1 of .*final\.bias.*holds 1 .*stranger"):
        load_released("ukan", state, **TINY)


def test_another_grid_is_refused(state: dict) -> None:
    key = next(key for key in state if key.endswith("grid"))
    state[key] = state[key] * 2
    with pytest.raises(ValueError, match="uniform grid"):
        load_released("ukan", state, **TINY)


class Harmful:
    def __reduce__(self) -> tuple:
        return (print, ("code of a checkpoint ran",))


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"a": Harmful()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        load_released("ukan", tmp_path / "a.pth", **TINY)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unreadable_files_are_one_sentence(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a\\" + suffix):
        load_released("ukan", path, **TINY)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load_released("ukan", tmp_path / "a.pth")


def test_options_need_a_name() -> None:
    with pytest.raises(ValueError, match="already built"):
        released_state_dict(create_model("ukan", **TINY), channels=(16, 16, 24))
