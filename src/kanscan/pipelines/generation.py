"""Generation: pictures, perhaps with labels, become a noise predictor, its training step and its generator."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanscan.config.recipe import Recipe
from kanscan.data.case import Case
from kanscan.data.pictures.dataset import bare_pictures, labelled_pictures
from kanscan.data.pictures.labels import read_case_image
from kanscan.data.pictures.transforms import Preprocessing
from kanscan.data.source import Opened
from kanscan.data.splits import Split
from kanscan.data.unlabelled import open_pictures
from kanscan.models import MODELS, create_model, model_options
from kanscan.models.base import Network, NoisePredictor
from kanscan.models.released import load_into
from kanscan.pipelines.parts import build_preprocessing, data_folder, loader_of
from kanscan.run import Run
from kanscan.training.device import choose_device
from kanscan.training.diffusion import DiffusionTask
from kanscan.training.process import NoiseProcess, denoise, noise_process, sample_generator

#: Generated values mean brightness only on this scale.
NORMALIZATION = "symmetric"


def check_settings(recipe: Recipe) -> None:
    """Refuse settings that a diffusion does not know or cannot use."""
    noise_process(recipe.diffusion)
    needed: dict[str, tuple[Any, Any]] = {
        "data.normalization": (recipe.data.normalization, NORMALIZATION),
        "trainer.select_by": (recipe.trainer.select_by, "loss"),
    }
    for key, (found, wanted) in needed.items():
        if found != wanted:
            raise ValueError(f"{key}={found} does not suit a network that generates; set {key}={wanted}")
    if recipe.data.extra_training is not None:
        raise ValueError("data.extra_training is for networks that segment; put all pictures into data.root")
    if recipe.data.image_size is None:
        raise ValueError("generated pictures need a size; set data.image_size=[64,64]")
    if recipe.loss != Recipe().loss:
        raise ValueError(
            f"model {recipe.model.name} generates: the settings of loss would have no effect; see diffusion.loss"
        )
    if recipe.data.crop_place == "random" and recipe.data.crop is None:
        raise ValueError("data.crop_place=random needs the side of the cut; set data.crop, such as data.crop=64")


def open_data(recipe: Recipe, root: str | Path | None = None) -> Opened:
    """Open the pictures a recipe names; labels are needed only where they are learned too."""
    folder = data_folder(recipe, root)
    return open_pictures(folder, recipe.data.reader, recipe.data.options, labelled=recipe.diffusion.with_label)


def complete(recipe: Recipe, channels: int, num_classes: int) -> dict[str, Any]:
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


def check_model(recipe: Recipe, model: Network) -> None:
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


def task_of(recipe: Recipe, model: Network, num_classes: int) -> DiffusionTask:
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


def loader(recipe: Recipe, source: Opened, ids: Sequence[str], *, training: bool) -> Any:
    """Build the loader of some pictures."""
    cases, preprocessing = source.only(ids, "the split"), build_preprocessing(recipe, source.reader.channels)
    settings: dict[str, Any] = {
        "augmentation": recipe.data.augmentation if training else "none",
        "crop_place": recipe.data.crop_place if training else "center",
        "seed": recipe.seed,
        "cache": recipe.data.cache,
    }
    if recipe.diffusion.with_label:
        dataset = labelled_pictures(cases, preprocessing, source.label_map, **settings)
    else:
        dataset = bare_pictures(cases, preprocessing, **settings)
    return loader_of(recipe, dataset, training=training)


def check_batch(recipe: Recipe, model: Network, num_training_cases: int) -> None:
    """Accept any batch: these networks norm each picture by itself."""


def facts(recipe: Recipe, source: Opened) -> dict[str, Any]:
    """Return what sampling needs to know: how noise was added, and the classes of the labels, if they are learned."""
    part = recipe.diffusion
    process = asdict(noise_process(part))
    return {"class_names": list(source.label_map.names) if part.with_label else [], "diffusion": process}


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
    if "diffusion" not in found:
        raise ValueError(
            f"{run.path} segments, it generates nothing; train a recipe such as ukan_diffusion-quick for that"
        )
    if not run.weights_path.is_file():
        raise FileNotFoundError(f"{run.path} has no weights yet: no epoch was finished; go on with resume=true")
    model = create_model(found["model"]["name"], **found["model"]["options"])
    chosen = choose_device(device)
    loaded = load_into(model, run.weights_path).to(chosen).eval()
    assert isinstance(loaded, NoisePredictor)
    prepared = found["preprocessing"]
    height, width = prepared["image_size"]
    process, names = NoiseProcess(**found["diffusion"]), tuple(found["class_names"])
    return Generator(loaded, process, (height, width), prepared["channels"], names, chosen)


@dataclass(frozen=True)
class RealPictures:
    """What generated pictures are compared with, cut and sized as in training.

    Attributes:
        train: `(N, C, H, W)` uint8: the pictures learned from.
        train_ids: Their names.
        test: `(M, C, H, W)` uint8: pictures of the same data set that were kept apart; M may be 0.
        note: What the user should know, or "".
    """

    train: NDArray[np.uint8]
    train_ids: tuple[str, ...]
    test: NDArray[np.uint8]
    note: str


def real_pictures(run: Run, root: str | Path) -> RealPictures:
    """Read the pictures that a run's samples are compared with.

    Args:
        run: A run that generates.
        root: Where the data of the run lie; or another data set, which is then taken whole.

    Raises:
        ValueError: There are no pictures, or one cannot be read.
        FileNotFoundError: There is no such folder.
    """
    recipe, split = run.recipe, Split.load(run.split_path)
    try:
        source = open_data(recipe, root)
    except ValueError:
        # Another data set may have another layout than the one that was learned from.
        source = open_pictures(root)
    known = {case.id: case for case in source.cases}
    train, test, note = [known[i] for i in split.train if i in known], [i for i in split.test if i in known], ""
    if len(train) < len(split.train):
        train, test = list(source.cases), []
        note = f"the pictures of {Path(root).resolve().name} are not those the run learned from: all are compared with"
    prepare = Preprocessing(**run.facts["preprocessing"]).prepare
    height, width = run.facts["preprocessing"]["image_size"]
    empty = np.zeros((0, run.facts["preprocessing"]["channels"], height, width), np.uint8)

    def read(case: Case) -> NDArray[np.uint8]:
        return np.clip(np.rint(prepare(read_case_image(case))), 0, 255).astype(np.uint8)

    return RealPictures(
        np.stack([read(case) for case in train]),
        tuple(case.id for case in train),
        np.stack([read(known[i]) for i in test]) if test else empty,
        note,
    )
