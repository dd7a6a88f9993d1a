"""Predictors: a picture of any size, or a volume of any grid, becomes a label map of its own."""

from kanscan.inference.files import ImageFiles
from kanscan.inference.network import Network
from kanscan.inference.picture_files import PictureFiles
from kanscan.inference.pictures import PicturePredictor
from kanscan.inference.prediction import Prediction, Predictor
from kanscan.inference.volume_files import VolumeFiles
from kanscan.inference.volumes import VolumePredictor

#: How images of each kind of work are found, read and labelled on disk.
FILES: dict[str, ImageFiles] = {"pictures": PictureFiles(), "volumes": VolumeFiles()}

__all__ = ["FILES", "Network", "PicturePredictor", "Prediction", "Predictor", "VolumePredictor"]
