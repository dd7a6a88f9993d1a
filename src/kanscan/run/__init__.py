"""A run: the folder of what happened, the facts in it, and where it took place."""

from kanscan.run.folder import Run

__all__ = ["Run"]
