"""The hall: names in a recipe become objects, a run becomes a predictor; the only room that sees every wing."""

from kanscan.build.generation import Generator, RealPictures, generator, real_pictures
from kanscan.build.parts import build_preprocessing, build_split, load_weights
from kanscan.build.runs import Preparation, prepare, train_run
from kanscan.build.segmentation import evaluation_cases, load_predictor, predictor
from kanscan.build.wings import (
    build_loaders,
    build_model,
    build_source,
    build_task,
    check_batch,
    check_names,
    generates,
    network_options,
)

__all__ = [
    "Generator",
    "Preparation",
    "RealPictures",
    "build_loaders",
    "build_model",
    "build_preprocessing",
    "build_source",
    "build_split",
    "build_task",
    "check_batch",
    "check_names",
    "evaluation_cases",
    "generates",
    "generator",
    "load_predictor",
    "load_weights",
    "network_options",
    "predictor",
    "prepare",
    "real_pictures",
    "train_run",
]
