"""kanscan: U-shaped networks of splines and scans for medical images.

The names below are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

#: Functions that are subcommands of the shell too, in the order of its help; each is a file in `commands/`.
COMMANDS = ("demo", "check", "train", "evaluate", "predict", "compare", "study", "explain", "sample", "show")

_FACE = {
    **{name: f"kanscan.commands.{name}" for name in COMMANDS},
    "MODELS": "kanscan.models",
    "Predictor": "kanscan.inference",
    "READERS": "kanscan.data",
    "Recipe": "kanscan.config.recipe",
    "Run": "kanscan.run",
    "create_model": "kanscan.models",
    "load_predictor": "kanscan.workflows.predictable",
    "load_recipe": "kanscan.config.recipe",
    "load_released": "kanscan.models",
    "released_state_dict": "kanscan.models",
}

__all__ = ["COMMANDS", "__version__", *_FACE]

if TYPE_CHECKING:
    from kanscan.commands.check import check
    from kanscan.commands.compare import compare
    from kanscan.commands.demo import demo
    from kanscan.commands.evaluate import evaluate
    from kanscan.commands.explain import explain
    from kanscan.commands.predict import predict
    from kanscan.commands.sample import sample
    from kanscan.commands.show import show
    from kanscan.commands.study import study
    from kanscan.commands.train import train
    from kanscan.config.recipe import Recipe, load_recipe
    from kanscan.data import READERS
    from kanscan.inference import Predictor
    from kanscan.models import MODELS, create_model, load_released, released_state_dict
    from kanscan.run import Run
    from kanscan.workflows.predictable import load_predictor


def __getattr__(name: str) -> object:
    if name not in _FACE:
        raise AttributeError(f"module 'kanscan' has no attribute {name!r}")
    value = getattr(import_module(_FACE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACE])
