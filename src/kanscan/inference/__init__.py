"""Predictors: a picture of any size, or a volume of any grid, becomes a label map of its own."""

from kanscan.inference.pictures import Prediction, Predictor
from kanscan.inference.volumes import VolumePrediction, VolumePredictor

__all__ = ["Prediction", "Predictor", "VolumePrediction", "VolumePredictor"]
