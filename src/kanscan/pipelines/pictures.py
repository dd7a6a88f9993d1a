"""Pictures: files and labels become a network and its training step, a run becomes label maps of their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kanscan.config.foreign import keys_under, refuse_foreign
from kanscan.config.recipe import Recipe
from kanscan.data.case import Case, LabelMap
from kanscan.data.dicom.picture import read_picture_spacing
from kanscan.data.dicom.series import is_named_like_dicom
from kanscan.data.examination import CaseFacts, examine
from kanscan.data.pictures.augmentation import AUGMENTATIONS
from kanscan.data.pictures.dataset import ConcatenatedDataset, PictureDataset, labelled_pictures
from kanscan.data.pictures.labels import check_pair, read_case_image, read_label, read_pair
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.data.source import Opened, open_source
from kanscan.data.splits import Split
from kanscan.drawing.images import overlay
from kanscan.inference import PicturePredictor
from kanscan.inference.torch_network import TorchNetwork
from kanscan.models import MODELS, model_options
from kanscan.models.base import SegmentationModel
from kanscan.models.fitting import check_fit, complete_options
from kanscan.pipelines.base import LabelingPipeline, MaskPairs, Masks, Preparation
from kanscan.pipelines.masks import pair_pictures
from kanscan.pipelines.parts import (
    READ_BY_ALL,
    build_model,
    build_preprocessing,
    check_loss,
    data_notes,
    dataset_facts,
    load_weights,
    loader_of,
    network_facts,
    predictable_network,
    segmentation_task,
)
from kanscan.report.pictures import draw_case
from kanscan.run import Run
from kanscan.run.facts import NetworkFacts, PictureFacts, PreprocessingFacts, RunFacts
from kanscan.training.device import choose_device
from kanscan.training.segmentation import check_batch_norm


class PicturePipeline(LabelingPipeline[NDArray]):
    """Label maps of pictures."""

    kind: ClassVar[str] = "pictures"
    reads: ClassVar[frozenset[str]] = (READ_BY_ALL | keys_under("loss", "evaluation", "data", "trainer")) - keys_under(
        "data.crop", "data.crop_place"
    )

    def check(self, recipe: Recipe) -> None:
        """Refuse what does not suit; see `Pipeline`."""
        refuse_foreign(recipe, self.reads, "pictures")
        AUGMENTATIONS[recipe.data.augmentation]
        build_preprocessing(recipe, 3)
        check_loss(recipe)

    def prepare(self, recipe: Recipe, source: Opened, split: Split, resumed: RunFacts | None = None) -> Preparation:
        """Build everything a recipe names; see `Pipeline`."""
        num_classes = source.label_map.num_classes
        options = self.options(recipe, source.reader.channels, num_classes)
        model = build_model(recipe, options)
        assert isinstance(model, SegmentationModel)  # complete_options refused the others
        check_fit(model, recipe.data.image_size, recipe.loss.deep_supervision)
        started = "" if resumed is not None else load_weights(recipe, model)
        if recipe.data.image_size is not None:
            batch = min(recipe.trainer.batch_size, len(split.train))
            check_batch_norm(model, batch, (model.in_channels, *recipe.data.image_size))
        train = self._training_set(recipe, source, split.train)
        memory, num_extra = train.memory, len(train) - len(split.train)
        validation = self.dataset(recipe, source, split.validation) if split.validation else None
        extra = f"{num_extra} more cases to train on from {recipe.data.extra_training}" if num_extra else ""
        # Pictures that fit into memory need no word.
        kept = "" if memory is None or memory.fits else str(memory)
        return Preparation(
            self,
            recipe,
            source,
            split,
            options,
            model,
            segmentation_task(recipe, model),
            loader_of(recipe, train, training=True),
            None if validation is None else loader_of(recipe, validation, training=False),
            tuple(filter(None, (started, *data_notes(source, split), extra, kept))),
            num_extra,
        )

    def options(self, recipe: Recipe, channels: int, num_classes: int) -> dict[str, Any]:
        """Resolve all constructor options of the network: the recipe's, what follows from the data, and the defaults.

        Args:
            recipe: Names the network, its preset and its options.
            channels: Channels of the pictures as the data set has them.
            num_classes: Classes of the data, background included.

        Raises:
            ValueError: The network or an option is unknown, or contradicts the data.
        """
        part = recipe.model
        return complete_options(
            MODELS[part.name],
            model_options(part.name, part.preset, part.options),
            channels=build_preprocessing(recipe, channels).channels,
            num_classes=num_classes,
            image_size=recipe.data.image_size,
            deep_supervision=recipe.loss.deep_supervision,
        )

    def dataset(
        self, recipe: Recipe, source: Opened, ids: Sequence[str] | None, *, augmentation: str = "none", seed: int = 0
    ) -> PictureDataset:
        """Build the data set of some cases of a source, of all its labelled ones where none are named.

        Args:
            recipe: Says what is done to pictures.
            source: The data set.
            ids: Whom; None: all.
            augmentation: A key of `AUGMENTATIONS`.
            seed: Of what is drawn, added to the recipe's.
        """
        return labelled_pictures(
            source.cases if ids is None else source.only(ids, "the split"),
            build_preprocessing(recipe, source.reader.channels),
            source.label_map,
            augmentation=augmentation,
            seed=recipe.seed + seed,
            cache=recipe.data.cache,
        )

    def _training_set(self, recipe: Recipe, source: Opened, ids: Sequence[str]) -> PictureDataset | ConcatenatedDataset:
        augmentation = recipe.data.augmentation
        own = self.dataset(recipe, source, ids, augmentation=augmentation)
        if recipe.data.extra_training is None:
            return own
        # Another seed: equal places in both parts would be turned alike in every epoch.
        more = self.dataset(recipe, open_extra(recipe, source), None, augmentation=augmentation, seed=1)
        return ConcatenatedDataset(own, more)

    def facts(self, preparation: Preparation) -> PictureFacts:
        """Collect what prediction needs; see `Pipeline`."""
        recipe, source = preparation.recipe, preparation.source
        preprocessing = build_preprocessing(recipe, source.reader.channels)
        return PictureFacts(
            **network_facts(preparation.model),
            model=NetworkFacts(name=recipe.model.name, options=preparation.options),
            data=dataset_facts(preparation),
            preprocessing=PreprocessingFacts(**asdict(preprocessing)),
            class_names=source.label_map.names,
            label_map=source.label_map,
        )

    def predictor(self, run: Run, *, device: str = "auto", flips: bool | None = None) -> PicturePredictor:
        """Build the predictor of a run; see `LabelingPipeline`."""
        facts = run.facts
        assert isinstance(facts, PictureFacts)
        return PicturePredictor(
            TorchNetwork(predictable_network(run), choose_device(device)),
            Preprocessing(**facts.preprocessing.model_dump()),
            facts.class_names,
            flips=run.recipe.evaluation.flips if flips is None else flips,
        )

    def read_pair(self, case: Case, label_map: LabelMap) -> tuple[NDArray, NDArray[np.uint8]]:
        """Read picture and label; see `LabelingPipeline`."""
        return read_pair(case, label_map)

    def is_spaced(self, case: Case) -> bool:
        """Tell whether the layout says how large a pixel is; see `LabelingPipeline`."""
        return self.spacing_mm(case, None) is not None

    def spacing_mm(self, case: Case, image: NDArray | None) -> tuple[float, ...] | None:
        """Return the spacing that the layout or a DICOM file says; see `LabelingPipeline`."""
        if case.spacing_mm is not None or not is_named_like_dicom(case.images[0]):
            return case.spacing_mm
        return read_picture_spacing(case.images[0], case.frame)

    def pair_masks(self, predictions: Path, references: Path, labels: object = "auto") -> MaskPairs:
        """Pair mask files; see `LabelingPipeline`."""
        return pair_pictures(predictions, references, labels)

    def read_masks(self, found: MaskPairs, pair: tuple[Case, Case]) -> Masks[NDArray]:
        """Read two masks; see `LabelingPipeline`."""
        ours, theirs = pair
        prediction, label = read_label(ours, found.prediction_map), read_label(theirs, found.label_map)
        check_pair(ours.labels[0], prediction.shape, theirs.labels[0], label.shape)
        return Masks(None, prediction, label, None)

    def draw(self, image: NDArray | None, prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw panels; see `LabelingPipeline`."""
        return draw_case(image, prediction, label)

    def examine(self, case: Case, label_map: LabelMap) -> CaseFacts:
        """Examine a picture; see `LabelingPipeline`."""
        return examine(case, label_map)

    def thumbnail(self, case: Case, label_map: LabelMap) -> tuple[NDArray[np.uint8], str]:
        """Draw a picture with its label; see `LabelingPipeline`."""
        if not case.labels:
            image = shown = read_case_image(case)
        else:
            image, label = read_pair(case, label_map)
            shown = overlay(image, label)
        return shown, f"{case.id}  {image.shape[1]} x {image.shape[0]}"


def open_extra(recipe: Recipe, source: Opened) -> Opened:
    """Open the pictures that join the training cases.

    Raises:
        ValueError: They are volumes, have other classes, or are the data set itself, test cases included.
        FileNotFoundError: There is no such folder.
    """
    folder = recipe.data.extra_training
    assert folder is not None
    here, there = folder.resolve(), source.root.resolve()
    if here == there or here in there.parents:
        raise ValueError(
            f"data.extra_training={folder} holds the data set itself, and with it the cases that are kept apart; name "
            "a folder of other pictures"
        )
    extra = open_source(folder)
    if extra.reader.spatial_dims != 2:
        raise ValueError(f"data.extra_training={folder} holds volumes ({extra.reader.key}), expected pictures")
    if extra.label_map.num_classes != source.label_map.num_classes:
        raise ValueError(
            f"data.extra_training={folder} has {extra.label_map.num_classes} classes, {source.root} has "
            f"{source.label_map.num_classes}; both must have the same"
        )
    return extra
