"""Run: the folder of what happened; enough alone to predict on another machine."""

from __future__ import annotations

import csv
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kanscan.config import Recipe, load_recipe
from kanscan.files import read_json, write_json, write_text

#: Raised when the folder's layout changes so that older readers would misread it.
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Run:
    """A folder with the recipe, the split, the weights, the curves, the environment and the report.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe, complete."""
        return self.path / "recipe.yaml"

    @property
    def facts_path(self) -> Path:
        """Facts found in the data that the recipe leaves open: channels, classes, label map, stride, versions."""
        return self.path / "run.json"

    @property
    def split_path(self) -> Path:
        """Ids of the training, validation and test cases."""
        return self.path / "split.json"

    @property
    def weights_path(self) -> Path:
        """Weights of the best epoch."""
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        """Folder of the resumable state and of the last epoch's weights."""
        return self.path / "checkpoints"

    @property
    def state_path(self) -> Path:
        """Everything needed to go on training: weights, optimizer, schedule, epoch, random state."""
        return self.checkpoints / "last.ckpt"

    @property
    def last_weights_path(self) -> Path:
        """Weights of the last finished epoch."""
        return self.checkpoints / "last.safetensors"

    @property
    def curves_path(self) -> Path:
        """One row an epoch: losses, scores, learning rates, seconds."""
        return self.path / "curves.csv"

    @property
    def environment_path(self) -> Path:
        """Versions, device, git state, command."""
        return self.path / "environment.json"

    @property
    def report_path(self) -> Path:
        """The report as JSON; `report.md`, `report.html` and `cases.csv` are drawn from it."""
        return self.path / "report.json"

    @classmethod
    def create(cls, path: str | Path, recipe: Recipe, facts: dict[str, Any]) -> Run:
        """Start a folder; refuses one that already holds a run.

        Raises:
            FileExistsError: There is a run already.
            OSError: The folder cannot be written to.
        """
        run = cls(Path(path))
        run.demand_new()
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.facts_path, {"format_version": FORMAT_VERSION, **facts})
        # The recipe comes last: a folder that has one is a run, whatever moment the process was killed at.
        run.write_recipe(recipe)
        return run

    def demand_new(self) -> None:
        """Refuse a folder that cannot become a run.

        Raises:
            FileExistsError: There is a run already.
            NotADirectoryError: The path is a file.
        """
        if self.recipe_path.exists():
            raise FileExistsError(
                f"{self.path} already holds a run; continue it with resume=true or choose another --output"
            )
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file, expected a folder for the run")

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe."""
        write_text(self.recipe_path, recipe.to_yaml())

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Take an existing run.

        Raises:
            ValueError: The folder holds no run, or one written by a newer format.
        """
        run = cls(Path(path))
        if not run.recipe_path.is_file() or not run.facts_path.is_file():
            raise ValueError(
                f"{run.path} is not a run: expected a folder with recipe.yaml and run.json, as train writes it"
            )
        found = run.facts.get("format_version")
        if found != FORMAT_VERSION:
            raise ValueError(f"{run.path} has run format {found}, this kanscan reads {FORMAT_VERSION}; update kanscan")
        return run

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was resolved."""
        return load_recipe(self.recipe_path)

    @property
    def facts(self) -> dict[str, Any]:
        """See `facts_path`."""
        return dict(read_json(self.facts_path))

    @property
    def curves(self) -> list[dict[str, float | None]]:
        """Rows of `curves_path`, None where an epoch was not validated; empty before the first epoch."""
        if not self.curves_path.is_file():
            return []
        with self.curves_path.open(newline="", encoding="utf-8") as file:
            return [{name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(file)]

    @property
    def report(self) -> dict[str, Any] | None:
        """The report, or None before evaluation."""
        return dict(read_json(self.report_path)) if self.report_path.is_file() else None


#: Packages that decide what a training computes.
_PACKAGES = ("kanscan", "torch", "monai", "lightning", "numpy", "scipy", "pillow", "tifffile", "safetensors")


def environment(device: str) -> dict[str, Any]:
    """Describe where a run takes place: versions, device, code state, command; no name of machine or user.

    Args:
        device: The device in words.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": device,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _installed(name) for name in _PACKAGES},
        "git": _git_state(),
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed_files": len(git("status", "--porcelain").splitlines())}
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or not inside a repository
