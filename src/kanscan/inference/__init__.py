"""Predictors: a picture of any size, or a volume of any grid, becomes a label map of its own."""

from kanscan.inference.pictures import PicturePredictor
from kanscan.inference.prediction import Prediction, Predictor
from kanscan.inference.volumes import VolumePredictor

__all__ = ["PicturePredictor", "Prediction", "Predictor", "VolumePredictor"]
