"""Generation: pictures, perhaps with labels, become a noise predictor, its training step and its generator."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from kanscan.config.foreign import keys_under, refuse_foreign
from kanscan.config.recipe import Recipe
from kanscan.data.pictures.dataset import PictureDataset, bare_pictures, labelled_pictures
from kanscan.data.source import Opened
from kanscan.data.splits import Split
from kanscan.data.unlabelled import open_pictures
from kanscan.models import MODELS, create_model, model_options
from kanscan.models.base import Network, NoisePredictor
from kanscan.models.released import load_into
from kanscan.pipelines.base import Pipeline, Preparation
from kanscan.pipelines.parts import (
    READ_BY_ALL,
    build_model,
    build_preprocessing,
    data_folder,
    data_notes,
    dataset_facts,
    demand_weights,
    load_weights,
    loader_of,
    network_facts,
)
from kanscan.run import Run
from kanscan.run.facts import GenerationFacts, NetworkFacts, PreprocessingFacts, ProcessFacts, RunFacts
from kanscan.training.device import choose_device
from kanscan.training.diffusion import DiffusionTask
from kanscan.training.process import NoiseProcess, denoise, noise_process, sample_generator

#: Generated values mean brightness only on this scale.
NORMALIZATION = "symmetric"


class GenerationPipeline(Pipeline):
    """Pictures out of noise, perhaps with labels."""

    kind: ClassVar[str] = "generation"
    reads: ClassVar[frozenset[str]] = (READ_BY_ALL | keys_under("diffusion", "data", "trainer")) - keys_under(
        "data.extra_training"
    )

    def check(self, recipe: Recipe) -> None:
        """Refuse settings that a diffusion does not know or cannot use."""
        refuse_foreign(recipe, self.reads, "networks that generate")
        noise_process(recipe.diffusion)
        needed = {
            "data.normalization": (recipe.data.normalization, NORMALIZATION),
            "trainer.select_by": (recipe.trainer.select_by, "loss"),
        }
        for key, (found, wanted) in needed.items():
            if found != wanted:
                raise ValueError(f"{key}={found} does not suit a network that generates; set {key}={wanted}")
        if recipe.data.image_size is None:
            raise ValueError("generated pictures need a size; set data.image_size=[64,64]")
        if recipe.data.crop_place == "random" and recipe.data.crop is None:
            raise ValueError("data.crop_place=random needs the side of the cut; set data.crop, such as data.crop=64")

    def prepare(self, recipe: Recipe, source: Opened, split: Split, resumed: RunFacts | None = None) -> Preparation:
        """Build everything a recipe names; see `Pipeline`."""
        num_classes = source.label_map.num_classes
        options = self.options(recipe, source.reader.channels)
        model = build_model(recipe, options)
        _check_size(recipe, model)
        started = "" if resumed is not None else load_weights(recipe, model)
        train = generation_dataset(recipe, source, split.train, training=True)
        validation = generation_dataset(recipe, source, split.validation) if split.validation else None
        return Preparation(
            self,
            recipe,
            source,
            split,
            options,
            model,
            generation_task(recipe, model, num_classes),
            loader_of(recipe, train, training=True),
            None if validation is None else loader_of(recipe, validation, training=False),
            tuple(filter(None, (started, *data_notes(source, split)))),
        )

    def options(self, recipe: Recipe, channels: int) -> dict[str, Any]:
        """Resolve the network's options: what was chosen, what follows, the defaults."""
        part = recipe.model
        signature = inspect.signature(MODELS[part.name])
        wanted = {
            "in_channels": build_preprocessing(recipe, channels).channels + recipe.diffusion.with_label,
            "num_steps": recipe.diffusion.num_steps,
        }
        options = {key: value for key, value in wanted.items() if key in signature.parameters}
        options |= model_options(part.name, part.preset, part.options)
        for key, source in (("in_channels", "data.channels"), ("num_steps", "diffusion.num_steps")):
            if options.get(key, wanted[key]) != wanted[key]:
                raise ValueError(
                    f"model.options.{key}={options[key]}, but {wanted[key]} follows from the recipe; leave it out, or "
                    f"change {source}"
                )
        bound = signature.bind(**options)
        bound.apply_defaults()
        return dict(bound.arguments)

    def facts(self, preparation: Preparation) -> GenerationFacts:
        """Collect what sampling needs: how noise was added, and the classes of the labels, if they are learned."""
        recipe, source = preparation.recipe, preparation.source
        part = recipe.diffusion
        preprocessing = build_preprocessing(recipe, source.reader.channels)
        return GenerationFacts(
            **network_facts(preparation.model),
            model=NetworkFacts(name=recipe.model.name, options=preparation.options),
            data=dataset_facts(preparation),
            preprocessing=PreprocessingFacts(**asdict(preprocessing)),
            class_names=source.label_map.names if part.with_label else (),
            diffusion=ProcessFacts(**asdict(noise_process(part))),
        )


def open_unlabelled_pictures(recipe: Recipe, root: str | Path | None = None) -> Opened:
    """Open the pictures a recipe names; labels are needed only where they are learned too."""
    folder = data_folder(recipe, root)
    return open_pictures(folder, recipe.data.reader, recipe.data.options, labelled=recipe.diffusion.with_label)


def _check_size(recipe: Recipe, model: Network) -> None:
    """Refuse a network that cannot make pictures of the recipe's size."""
    size = recipe.data.image_size
    assert size is not None
    if model.spatial_dims != 2:
        raise ValueError(f"the data are pictures, but this {type(model).__name__} was built for 3D images")
    legal = [-(-s // m) * m for s, m in zip(size, model.stride, strict=True)]
    if legal != list(size):
        raise ValueError(
            f"data.image_size={list(size)} does not suit {type(model).__name__}, whose sizes are multiples of "
            f"{' x '.join(map(str, model.stride))}; the next legal size is {legal}"
        )


def generation_task(recipe: Recipe, model: Network, num_classes: int) -> DiffusionTask:
    """Build the training step."""
    part = recipe.diffusion
    return DiffusionTask(
        model,
        part,
        recipe.optim,
        recipe.trainer.epochs,
        label_classes=num_classes if part.with_label else None,
        seed=recipe.seed,
    )


def generation_dataset(recipe: Recipe, source: Opened, ids: Sequence[str], *, training: bool = False) -> PictureDataset:
    """Build the data set of some pictures."""
    cases, preprocessing = source.only(ids, "the split"), build_preprocessing(recipe, source.reader.channels)
    settings: dict[str, Any] = {
        "augmentation": recipe.data.augmentation if training else "none",
        "crop_place": recipe.data.crop_place if training else "center",
        "seed": recipe.seed,
        "cache": recipe.data.cache,
    }
    if recipe.diffusion.with_label:
        return labelled_pictures(cases, preprocessing, source.label_map, **settings)
    return bare_pictures(cases, preprocessing, **settings)


@dataclass(frozen=True)
class Generator:
    """Noise in, pictures out.

    Attributes:
        model: The network, in evaluation mode.
        process: How noise was added in training.
        image_size: (height, width).
        channels: Channels of a picture, the label's not counted.
        class_names: Classes of the labels, background first; empty where there are none.
        device: Where the network computes.
    """

    model: NoisePredictor
    process: NoiseProcess
    image_size: tuple[int, int]
    channels: int
    class_names: tuple[str, ...]
    device: torch.device

    def steps(
        self,
        indices: Sequence[int],
        *,
        seed: int,
        sampler: str = "ddpm",
        num_steps: int | None = None,
        clip: bool = True,
    ) -> Iterator[Tensor]:
        """Denoise samples; the noise of each depends on (seed, index) alone.

        Args:
            indices: Numbers of the samples.
            seed: Seed of all of them.
            sampler: "ddpm" or "ddim".
            num_steps: As in `NoiseProcess.chain`.
            clip: As in `NoiseProcess.chain`.

        Yields:
            The samples `(B, C, H, W)` before the first step and after each; the last may leave -1..1.

        Raises:
            ValueError: The network answers with NaN, the sampler is unknown, or the steps are too many.
        """
        chain = self.process.chain(sampler, num_steps, clip=clip)
        shape = (self.model.in_channels, *self.image_size)
        streams = [sample_generator(seed, index) for index in indices]
        for images in denoise(self.model, chain, shape, streams, self.device):
            if not torch.isfinite(images).all():
                raise ValueError("the network answered with NaN; its weights are damaged, or its training went wrong")
            yield images

    def pictures(self, images: Tensor) -> Tensor:
        """Turn samples into pictures `(B, channels, H, W)` uint8."""
        return ((images[:, : self.channels].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    def labels(self, images: Tensor) -> Tensor | None:
        """Turn samples into class indices `(B, H, W)` uint8; None where no labels were learned."""
        if not self.class_names:
            return None
        highest = len(self.class_names) - 1
        return ((images[:, -1].clamp(-1, 1) + 1) / 2 * highest).round().to(torch.uint8)


def generator(run: Run, *, device: str = "auto") -> Generator:
    """Build the generator of a run from its folder alone.

    Args:
        run: A run with weights.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ValueError: The run segments, or the weights belong to another network.
        FileNotFoundError: There are no weights yet.
    """
    found = run.facts
    if not isinstance(found, GenerationFacts):
        raise ValueError(
            f"{run.path} segments, it generates nothing; train a recipe such as ukan_diffusion-quick for that"
        )
    demand_weights(run)
    model = create_model(found.model.name, **found.model.options)
    chosen = choose_device(device)
    loaded = load_into(model, run.weights_path).to(chosen).eval()
    size = found.preprocessing.image_size
    if not isinstance(loaded, NoisePredictor) or size is None:
        raise ValueError(f"{run.path} is damaged: {found.model.name} cannot generate what run.json says")
    process = NoiseProcess(**found.diffusion.model_dump())
    return Generator(loaded, process, size, found.preprocessing.channels, found.class_names, chosen)
