"""The check of networks finds what is missing; networks of others join the catalogue and are refused in a sentence."""

import re
import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from torch import nn

from kanscan.commands.show import show
from kanscan.models import MODELS, catalogue, create_model, model_options
from kanscan.models.base import SegmentationModel
from kanscan.models.conformance import CHECKS, check_network


class Good(SegmentationModel):
    """Two convolutions at a quarter of the size."""

    def __init__(self, in_channels: int = 3, out_channels: int = 1, *, channels: int = 4) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, (4, 4)
        self.inner = nn.Conv2d(in_channels, channels, 4, stride=4)
        self.outer = nn.ConvTranspose2d(channels, out_channels, 4, stride=4)

    @classmethod
    def tiny(cls, **options):
        return cls(**options)

    def forward(self, x):
        self.check_input(x)
        return self.outer(torch.relu(self.inner(x)))


class Theirs(Good):
    presets: ClassVar = {"wide": {"channels": 8}}


class Half(Good):
    def forward(self, x):
        self.check_input(x)
        return self.outer(self.inner(x))[..., ::2, ::2]


class Unchecked(Good):
    def forward(self, x):
        return self.outer(self.inner(x))


class Idle(Good):
    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__(in_channels, out_channels)
        self.never = nn.Linear(1, 1)


class Forgetful(Good):
    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__(in_channels, out_channels)
        self.secret = [nn.Parameter(torch.randn(out_channels))]

    def forward(self, x):
        return super().forward(x) * self.secret[0].view(1, -1, 1, 1)


class WithoutDefault(Good):
    def __init__(self, depth: int, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__(in_channels, out_channels)

    @classmethod
    def tiny(cls, **options):
        return cls(1, **options)


class Branching(Good):
    def forward(self, x):
        self.check_input(x)
        y = self.outer(self.inner(x))
        return y if y.sum() > 0 else y + 1


class WrongPreset(Good):
    presets: ClassVar = {"deep": {"depth": 3}}


def problems(cls) -> dict[str, str]:
    return {found.check: found.problem for found in check_network(cls) if found.problem}


@pytest.mark.export
def test_a_sound_network_keeps_every_promise():
    assert problems(Good) == {}


@pytest.mark.parametrize(
    ("cls", "check", "words"),
    [
        (Half, "gives_logits", r"must give \(1, 1, 32, 64\), got \(1, 1, 16, 32\)"),
        (Unchecked, "refuses_wrong_inputs", "ends in RuntimeError .*check_input"),
        (Idle, "trains_every_parameter", "never.weight gets no gradient"),
        (Forgetful, "survives_a_file", "outside of them"),
        (WithoutDefault, "declares", "option depth needs a default"),
        (WrongPreset, "builds_its_presets", "preset deep does not build"),
        (nn.Linear, "declares", "must inherit from kanscan.models.base.SegmentationModel"),
    ],
)
def test_what_is_missing_is_named(cls, check, words):
    (found,) = check_network(cls, (check,))
    assert re.search(words, found.problem), found.problem
    assert "\n" not in found.problem


@pytest.mark.export
def test_what_cannot_be_exported_is_found():
    (found,) = check_network(Branching, ("exports",))
    assert found.problem


def test_the_shell_checks_a_network(monkeypatch):
    monkeypatch.setitem(MODELS, "mine", Idle)
    monkeypatch.delitem(CHECKS, "exports")
    listing = show("model", "mine", check=True)
    assert [row[2] for row in listing.rows if row[1] == "gives logits"] == ["fine"]
    assert any("gets no gradient" in row[2] for row in listing.rows)
    assert listing.notes == ("1 of 8 promises are not kept",)
    with pytest.raises(ValueError, match="--check is for one model"):
        show("recipes", check=True)


@pytest.fixture
def installed(monkeypatch):
    """Another package with two networks of which one cannot be imported."""
    module = ModuleType("their_package")
    module.Theirs, module.number = Theirs, 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_package", module)
    points = {
        "theirs": "their_package:Theirs",
        "broken": "no_such_package:Net",
        "number": "their_package:number",
    }
    found = {name: EntryPoint(name, value, catalogue.GROUP) for name, value in points.items()}
    monkeypatch.setattr(catalogue, "_entry_points", lambda: found)
    yield
    MODELS.pop("theirs", None)


def test_networks_of_other_packages_are_found_by_name(installed):
    assert MODELS.get("theirs") is Theirs
    assert isinstance(create_model("theirs", preset="wide"), Good)
    assert MODELS.get("nowhere") is None
    with pytest.raises(ValueError, match="unknown model 'their': did you mean 'theirs'"):
        create_model("their")


def test_a_broken_package_is_a_sentence_and_stops_nothing_else(installed):
    with pytest.raises(ValueError, match=r"network 'broken' of .*no_such_package:Net.* cannot be loaded"):
        create_model("broken")
    with pytest.raises(ValueError, match=r"'number'.* is no network: it must inherit"):
        create_model("number")
    assert len(MODELS.discover()) == 2
    assert "theirs" in MODELS


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "ukan_diffusion",
            {"channels": [8, 8, 8]},
            r"options\.channels of ukan_diffusion must be int, got \(8, 8",
        ),
        ("ukan", {"channels": 8}, r"must be tuple\[int, int, int\], got 8"),
        ("ukan", {"channels": [8, 8]}, r"must be tuple\[int, int, int\], got \(8, 8\)"),
        ("ukan", {"drop_path": "much"}, "must be float, got 'much'"),
        ("ukan", {"grid_size": True}, "must be int, got True"),
        ("lkm_unet", {"strides": [[1, 2], "x"]}, "model.options.strides of lkm_unet must be"),
    ],
)
def test_options_of_another_kind_are_one_sentence(name, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        model_options(name, None, options)
    assert "\n" not in str(caught.value)


def test_every_option_of_every_network_has_a_type_and_its_default_is_of_it():
    for name, cls in MODELS.items():
        import inspect

        defaults = {key: p.default for key, p in inspect.signature(cls).parameters.items()}
        assert model_options(name, None, defaults) == defaults
        assert all(p.annotation is not p.empty for p in inspect.signature(cls).parameters.values()), name
