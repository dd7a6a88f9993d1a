"""Volumes: a plan, patches and a network; a run becomes label maps in the volumes' own grids."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kanscan.config.foreign import keys_under, refuse_foreign
from kanscan.config.recipe import Recipe
from kanscan.data.case import Case, LabelMap
from kanscan.data.examination import CaseFacts, examine_volume
from kanscan.data.sides import names_sides
from kanscan.data.source import Opened
from kanscan.data.splits import Split
from kanscan.data.volume import Volume, check_grid
from kanscan.data.volumes.augmentation import VOLUME_AUGMENTATIONS
from kanscan.data.volumes.formats import (
    read_case_volume,
    read_label_volume,
    read_volume_pair,
)
from kanscan.data.volumes.plan import NORMALIZATIONS
from kanscan.data.volumes.slices import PLANES, shown_slice
from kanscan.drawing.images import overlay
from kanscan.inference import VolumePredictor
from kanscan.inference.torch_network import TorchNetwork
from kanscan.pipelines.base import LabelingPipeline, MaskPairs, Masks, Preparation
from kanscan.pipelines.masks import pair_volumes
from kanscan.pipelines.parts import (
    READ_BY_ALL,
    check_loss,
    data_notes,
    dataset_facts,
    load_weights,
    network_facts,
    predictable_network,
    segmentation_task,
)
from kanscan.pipelines.planning import patch_loaders, plan_volumes, write_plan
from kanscan.registry import unknown
from kanscan.report.pictures import draw_case
from kanscan.run import Run
from kanscan.run.facts import NetworkFacts, RunFacts, VolumeFacts
from kanscan.training.device import choose_device


class VolumePipeline(LabelingPipeline[Volume]):
    """Label maps of volumes."""

    kind: ClassVar[str] = "volumes"
    reads: ClassVar[frozenset[str]] = (
        READ_BY_ALL | keys_under("loss", "evaluation", "volume", "trainer")
    ) - keys_under("trainer.batch_size")

    def check(self, recipe: Recipe) -> None:
        """Refuse what does not suit; see `Pipeline`."""
        refuse_foreign(recipe, self.reads, "volumes")
        VOLUME_AUGMENTATIONS[recipe.volume.augmentation]
        if recipe.volume.normalization not in NORMALIZATIONS:
            raise ValueError(unknown("volume.normalization", recipe.volume.normalization, NORMALIZATIONS))
        check_loss(recipe)

    def prepare(self, recipe: Recipe, source: Opened, split: Split, resumed: RunFacts | None = None) -> Preparation:
        """Build everything for volumes; the plan needs to know who is trained on."""
        assert resumed is None or isinstance(resumed, VolumeFacts)
        planned = plan_volumes(recipe, source, split, None if resumed is None else resumed.plan)
        started = "" if resumed is not None else load_weights(recipe, planned.model)
        train, validation = patch_loaders(recipe, source, split, planned.plan)
        return Preparation(
            self,
            recipe,
            source,
            split,
            planned.options,
            planned.model,
            segmentation_task(recipe, planned.model),
            train,
            validation,
            tuple(filter(None, (started, *data_notes(source, split), *planned.notes, sides_note(source.label_map)))),
            planned=planned,
        )

    def facts(self, preparation: Preparation) -> VolumeFacts:
        """Collect what prediction needs; see `Pipeline`."""
        assert preparation.planned is not None
        label_map = preparation.source.label_map
        return VolumeFacts(
            **network_facts(preparation.model),
            model=NetworkFacts(name=preparation.recipe.model.name, options=preparation.options),
            data=dataset_facts(preparation),
            plan=preparation.planned.plan,
            class_names=label_map.names,
            label_map=label_map,
        )

    def write_beside(self, run: Run, preparation: Preparation) -> None:
        """Write the plan, also as nnU-Net writes it."""
        assert preparation.planned is not None
        write_plan(run, preparation.planned)

    def predictor(self, run: Run, *, device: str = "auto", flips: bool | None = None) -> VolumePredictor:
        """Build the predictor of a run; see `LabelingPipeline`."""
        facts, recipe = run.facts, run.recipe
        assert isinstance(facts, VolumeFacts)
        return VolumePredictor(
            TorchNetwork(predictable_network(run), choose_device(device)),
            facts.plan,
            facts.class_names,
            flips=recipe.evaluation.flips if flips is None else flips,
            overlap=recipe.volume.overlap,
        )

    def read_pair(self, case: Case, label_map: LabelMap) -> tuple[Volume, NDArray[np.uint8]]:
        """Read volume and label; see `LabelingPipeline`."""
        return read_volume_pair(case, label_map)

    def is_spaced(self, case: Case) -> bool:
        """Tell whether the files say how large a voxel is; see `LabelingPipeline`."""
        return case.spacing_mm is not None or not case.unspaced

    def spacing_mm(self, case: Case, image: Volume) -> tuple[float, ...] | None:
        """Return the volume's spacing; see `LabelingPipeline`."""
        return image.spacing_mm

    def pair_masks(self, predictions: Path, references: Path, labels: object = "auto") -> MaskPairs:
        """Pair label volumes; see `LabelingPipeline`."""
        return pair_volumes(predictions, references, labels)

    def read_masks(self, found: MaskPairs, pair: tuple[Case, Case]) -> Masks[Volume]:
        """Read two label volumes; see `LabelingPipeline`."""
        ours, theirs = read_label_volume(pair[0], found.prediction_map), read_label_volume(pair[1], found.label_map)
        check_grid(theirs, ours)
        blank = Volume(np.zeros_like(theirs.array), theirs.affine)
        return Masks(blank, ours.array, theirs.array, theirs.spacing_mm)

    def draw(self, image: Volume | None, prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw the axial, the coronal and the sagittal slice with most foreground below one another."""
        assert image is not None  # masks alone bring a blank volume, which says how they lie
        rows = []
        for plane in PLANES:
            picture, (reference, ours), _ = shown_slice(image, label, prediction, plane=plane)
            if min(picture.shape) > 1:
                rows.append(draw_case(picture if image.array.any() else None, ours, reference))
        width = max(row.shape[1] for row in rows)
        padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0))) for row in rows]
        return np.concatenate(padded)[:-8]

    def examine(self, case: Case, label_map: LabelMap) -> CaseFacts:
        """Examine a volume; see `LabelingPipeline`."""
        return examine_volume(case, label_map)

    def thumbnail(self, case: Case, label_map: LabelMap) -> tuple[NDArray[np.uint8], str]:
        """Draw the axial slice with most foreground; of an unlabelled volume the middle one."""
        if not case.labels:
            image, _, number = shown_slice(read_case_volume(case))
            return image, f"{case.id}  slice {number}"
        volume, label = read_volume_pair(case, label_map)
        image, (shown,), number = shown_slice(volume, label)
        return overlay(image, shown), f"{case.id}  slice {number}"


def sides_note(label_map: LabelMap) -> str:
    """Say that class names keep the right from being shown on the left, or ""."""
    if not names_sides(label_map.names):
        return ""
    return "class names tell left from right: nothing is mirrored across the body, in training and in prediction"
