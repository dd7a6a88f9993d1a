"""Chapters of an explanation: from a network and images to figures, tables and arrays, each saying what it averages."""

from kanscan.explanation.chapters.base import Chapter, Sample
from kanscan.explanation.chapters.certainty import Calibrated, calibrating, uncertainty
from kanscan.explanation.chapters.learned import pruning, splines
from kanscan.explanation.chapters.looking import field_of_view, maps
from kanscan.explanation.chapters.receiving import attention, scans

__all__ = [
    "Calibrated",
    "Chapter",
    "Sample",
    "attention",
    "calibrating",
    "field_of_view",
    "maps",
    "pruning",
    "scans",
    "splines",
    "uncertainty",
]
