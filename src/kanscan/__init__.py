"""kanscan: U-shaped networks of splines and scans for medical images.

The names below are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_FACE = {
    "create_model": "kanscan.models",
    "load_released": "kanscan.models",
    "released_state_dict": "kanscan.models",
    "MODELS": "kanscan.models",
    "READERS": "kanscan.data",
    "Recipe": "kanscan.config.recipe",
    "load_recipe": "kanscan.config.recipe",
    "Run": "kanscan.run",
    "Predictor": "kanscan.inference",
    "load_predictor": "kanscan.pipelines.pictures",
    "train": "kanscan.commands.train",
    "evaluate": "kanscan.commands.evaluate",
    "predict": "kanscan.commands.predict",
    "check": "kanscan.commands.check",
    "show": "kanscan.commands.show",
    "compare": "kanscan.commands.compare",
    "demo": "kanscan.commands.demo",
    "explain": "kanscan.commands.explain",
    "sample": "kanscan.commands.sample",
}

__all__ = [
    "MODELS",
    "READERS",
    "Predictor",
    "Recipe",
    "Run",
    "__version__",
    "check",
    "compare",
    "create_model",
    "demo",
    "evaluate",
    "explain",
    "load_predictor",
    "load_recipe",
    "load_released",
    "predict",
    "released_state_dict",
    "sample",
    "show",
    "train",
]

if TYPE_CHECKING:
    from kanscan.commands.check import check
    from kanscan.commands.compare import compare
    from kanscan.commands.demo import demo
    from kanscan.commands.evaluate import evaluate
    from kanscan.commands.explain import explain
    from kanscan.commands.predict import predict
    from kanscan.commands.sample import sample
    from kanscan.commands.show import show
    from kanscan.commands.train import train
    from kanscan.config.recipe import Recipe, load_recipe
    from kanscan.data import READERS
    from kanscan.inference import Predictor
    from kanscan.models import MODELS, create_model, load_released, released_state_dict
    from kanscan.pipelines.pictures import load_predictor
    from kanscan.run import Run


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'kanscan' has no attribute {name!r}")
    value = getattr(import_module(_FACE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACE])
