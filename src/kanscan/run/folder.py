"""Run: the folder of what happened; enough alone to predict on another machine."""

from __future__ import annotations

import csv
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanscan.config.parts import TimedSchedule
from kanscan.config.recipe import Recipe, differences, load_recipe, with_root
from kanscan.files import read_json, write_json, write_text
from kanscan.run.environment import environment

if TYPE_CHECKING:
    from kanscan.run.facts import GenerationFacts, PictureFacts, VolumeFacts

#: Settings that may change between the parts of a run, since no weight depends on them.
FREE_KEYS = (
    *("name", "description", "claims", "data.root", "data.cache", "data.num_workers"),
    *("trainer.device", "trainer.patience", "trainer.time_budget_minutes"),
    *("volume.overlap", "volume.memory_limit_mib", "volume.cache"),
    *("evaluation.flips", "evaluation.nsd_tolerance", "evaluation.nsd_tolerances", "evaluation.bootstrap_samples"),
)


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
    def plan_path(self) -> Path:
        """Of volumes: how they reach the network, with a reason beside each setting."""
        return self.path / "plan.yaml"

    @property
    def fingerprint_path(self) -> Path:
        """Of volumes: what the training cases are like, as nnU-Net writes it."""
        return self.path / "dataset_fingerprint.json"

    @property
    def nnunet_plans_path(self) -> Path:
        """Of volumes: the plan as nnU-Net writes it."""
        return self.path / "nnUNetPlans.json"

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
    def calibration_path(self) -> Path:
        """The temperature that makes the run's probabilities mean what they say, where `explain` fitted one."""
        return self.path / "calibration.json"

    @property
    def report_path(self) -> Path:
        """The report as JSON; `report.md`, `report.html` and `cases.csv` are drawn from it."""
        return self.path / "report.json"

    @classmethod
    def create(
        cls,
        path: str | Path,
        recipe: Recipe,
        facts: PictureFacts | VolumeFacts | GenerationFacts,
        *,
        split: dict[str, Any],
        device: str,
    ) -> Run:
        """Start a folder; refuses one that already holds a run.

        Args:
            path: The folder.
            recipe: What will be done.
            facts: See `facts_path`.
            split: See `split_path`.
            device: Where, in words.

        Raises:
            FileExistsError: There is a run already.
            PermissionError: The folder cannot be written to.
        """
        run = cls(Path(path))
        run.demand_new()
        run._fill(recipe, facts, split, environment(device))
        return run

    def derive(self, path: str | Path, facts: PictureFacts | VolumeFacts | GenerationFacts) -> Run:
        """Make another run of the same recipe, split, plan and environment; only the weights are still to come.

        Args:
            path: The new folder; a run that is there is replaced.
            facts: Of the new run.

        Raises:
            PermissionError: The folder cannot be written to.
        """
        run = Run(Path(path))
        run.path.mkdir(parents=True, exist_ok=True)
        for source, target in zip(self._plan_paths, run._plan_paths, strict=True):
            if source.is_file():
                shutil.copyfile(source, target)
        environment = read_json(self.environment_path) if self.environment_path.is_file() else {}
        run._fill(self.recipe, facts, read_json(self.split_path), environment)
        return run

    def _fill(
        self,
        recipe: Recipe,
        facts: PictureFacts | VolumeFacts | GenerationFacts,
        split: dict[str, Any],
        environment: dict[str, Any],
    ) -> None:
        from kanscan.run.facts import FORMAT_VERSION

        try:
            write_json(self.split_path, split)
            write_json(self.environment_path, environment)
            write_json(self.facts_path, {"format_version": FORMAT_VERSION, **facts.model_dump(mode="json")})
            # The recipe comes last: a folder that has one is a run, whatever moment the process was killed at.
            self.write_recipe(recipe)
        except OSError as error:
            raise PermissionError(f"cannot write to {self.path} ({error.strerror}); choose another --output") from None

    @property
    def _plan_paths(self) -> tuple[Path, ...]:
        return self.plan_path, self.fingerprint_path, self.nnunet_plans_path

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

    def check_same(self, recipe: Recipe) -> Recipe:
        """Refuse to go on under a recipe that would have led to other weights.

        Args:
            recipe: What is asked for now.

        Returns:
            The recipe to go on with: what is free to change as asked, the folder of the data kept if none is named.

        Raises:
            ValueError: A setting on which the weights depend has changed.
        """
        mine = self.recipe
        if recipe.data.root is None:
            recipe = with_root(recipe, mine.data.root)
        # More epochs are fine where the learning rate does not depend on their number.
        longer = not isinstance(recipe.optim, TimedSchedule) or recipe.optim.schedule_epochs is not None
        # A finished run goes on under a new schedule.
        longer = longer or len(self.curves) >= mine.trainer.epochs < recipe.trainer.epochs
        for key, (before, now) in differences(mine, recipe).items():
            if key not in FREE_KEYS and not (key == "trainer.epochs" and longer):
                raise ValueError(
                    f"{self.path} was made with {key}={before}, now {key}={now} is asked for, and its weights depend "
                    "on it; leave it as it was, or start a new run with another --output"
                )
        return recipe

    def note_resumed(self, recipe: Recipe, device: str) -> None:
        """Record that the run goes on, under which recipe and where."""
        self.write_recipe(recipe)
        history = read_json(self.environment_path) if self.environment_path.is_file() else {}
        resumed = [*history.get("resumed", []), environment(device)]
        write_json(self.environment_path, {**history, "resumed": resumed})

    def discard(self) -> None:
        """Remove what a training wrote that failed before its first epoch ended; other files stay."""
        self.recipe_path.unlink(missing_ok=True)
        for path in (self.facts_path, self.split_path, self.environment_path, *self._plan_paths):
            path.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.path / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # not empty: it was the user's before
            self.path.rmdir()

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe."""
        write_text(self.recipe_path, recipe.to_yaml())

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Take an existing run.

        Raises:
            ValueError: The folder holds no run, a damaged one, one written by a newer version, or links that lead out.
        """
        run = cls(Path(path))
        if not run.recipe_path.is_file() or not run.facts_path.is_file():
            raise ValueError(
                f"{run.path} is not a run: expected a folder with recipe.yaml and run.json, as train writes it"
            )
        run._refuse_links_that_lead_out()
        # Junk shall be known before anything is computed.
        run.facts  # noqa: B018
        return run

    def _refuse_links_that_lead_out(self) -> None:
        # A run may come from a stranger, and what is written into it or cleared in it must not land elsewhere.
        inside = self.path.resolve()
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                path = Path(folder, name)
                if path.is_symlink() and not path.resolve().is_relative_to(inside):
                    raise ValueError(
                        f"{path} is a link to {path.readlink()}, outside the run; a run keeps its own files"
                    )

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was resolved."""
        return load_recipe(self.recipe_path)

    @property
    def facts(self) -> PictureFacts | VolumeFacts | GenerationFacts:
        """See `facts_path`.

        Raises:
            ValueError: The file is damaged, or a newer version wrote it.
        """
        from kanscan.run.facts import parse_facts

        return parse_facts(read_json(self.facts_path), str(self.facts_path))

    @property
    def curves(self) -> list[dict[str, float | None]]:
        """Rows of `curves_path`, None where an epoch was not validated; empty before the first epoch."""
        if not self.curves_path.is_file():
            return []
        with self.curves_path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        # Version 0.1.0 called the column of kan_lr otherwise.
        return [
            {"kan_lr" if name == "lr_kan" else name: float(cell) if cell else None for name, cell in row.items()}
            for row in rows
        ]

    @property
    def report(self) -> dict[str, Any] | None:
        """The report, or None before evaluation."""
        return dict(read_json(self.report_path)) if self.report_path.is_file() else None
