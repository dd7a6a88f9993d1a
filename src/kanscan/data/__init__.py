"""Files on disk become batches; nothing here knows a network."""

from __future__ import annotations

from kanscan.data.case import Case, DatasetReader, LabelMap, Survey
from kanscan.data.readers import READERS, recognize
from kanscan.data.source import make_reader, open_folder

__all__ = ["READERS", "Case", "DatasetReader", "LabelMap", "Survey", "make_reader", "open_folder", "recognize"]
