"""What an explanation looks at: pictures, or the patches of volumes, on the grid a run's network works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kanscan.data import Case
from kanscan.data.splits import Split
from kanscan.data.volume import Volume
from kanscan.data.volumes.cache import CachedCase
from kanscan.data.volumes.formats import read_volume_pair
from kanscan.data.volumes.patches import as_seen, cut, middle_of_foreground
from kanscan.data.volumes.preparation import prepare_label, prepare_volume
from kanscan.explanation.chapters import Sample
from kanscan.inference import PicturePredictor, Predictor, VolumePredictor
from kanscan.metrics import IGNORED
from kanscan.pipelines import evaluation_cases, generation, labeling_pipeline, open_data
from kanscan.run import Run
from kanscan.training.process import sample_generator
from kanscan.workflows.predictable import TrainedRun

#: Volumes that are looked at, and that calibration predicts as a whole, at most.
MOST_VOLUMES = 8
#: Voxels of a volume that calibration looks at; of more, every so many-th.
MOST_VOXELS = 2**20


def named_samples(run: Run, predictor: Predictor, paths: Sequence[Path]) -> list[Sample]:
    """Read pictures or volumes that the user named; they have no labels.

    Args:
        run: The run.
        predictor: Of the run.
        paths: Files, of volumes folders too.

    Raises:
        ValueError: One cannot be read, or does not suit the network.
        FileNotFoundError: There is nothing at a path.
    """
    source = TrainedRun(run)
    cases, _ = source.find(paths)
    return [sample_of(predictor, case.id, source.files.read(case)) for case in cases]


def case_samples(run: Run, predictor: Predictor, part: str, count: int) -> list[Sample]:
    """Read labelled cases of a part of the run's split, spread over it.

    Args:
        run: The run.
        predictor: Its predictor.
        part: As in `kanscan.pipelines.evaluation_cases`.
        count: How many, at most.

    Raises:
        ValueError: The part is empty, or the data do not fit the run.
        FileNotFoundError: The data are not there.
    """
    cases, label_map = _spread(run, part, count)
    pipeline = labeling_pipeline(run)
    return [sample_of(predictor, case.id, *pipeline.read_pair(case, label_map)) for case in cases]


def sample_of(predictor: Predictor, name: str, image: NDArray | Volume, label: NDArray | None = None) -> Sample:
    """Bring an image to what the network sees; of a volume one patch."""
    if isinstance(predictor, VolumePredictor):
        assert isinstance(image, Volume)
        return _volume_sample(predictor, name, image, label)
    assert isinstance(predictor, PicturePredictor) and not isinstance(image, Volume)
    return _picture_sample(predictor, name, image, label)


def noisy_samples(
    run: Run, count: int, device: str
) -> tuple[torch.nn.Module, torch.device, list[Sample], list[Tensor]]:
    """Make what a network that generates is looked at on: pictures of its data with noise.

    Steps are spread evenly over the process; a picture's noise depends on the run's seed and its number alone.

    Args:
        run: A run that generates.
        count: How many pictures, at most: test cases, or where there are none, those it learned from.
        device: auto, cpu, cuda, cuda:N or mps.

    Returns:
        The network, its device, samples whose last channel is the step, and the noise in each.

    Raises:
        ValueError: There are no pictures.
        FileNotFoundError: Weights or data are not there.
    """
    made, recipe, split = generation.generator(run, device=device), run.recipe, Split.load(run.split_path)
    source = open_data(recipe)
    ids = split.test or split.train
    chosen = [ids[int(i * max(1, len(ids) / count))] for i in range(min(count, len(ids)))]
    task = generation.generation_task(recipe, made.model, max(2, len(made.class_names)))
    samples, noises = [], []
    pictures = generation.generation_dataset(recipe, source, chosen)
    for number, batch in enumerate(pictures[index] for index in range(len(pictures))):
        image = task.image({name: torch.as_tensor(batch[name])[None] for name in ("image", "label") if name in batch})
        noise = torch.randn(image.shape, generator=sample_generator(recipe.seed, number))
        step = torch.tensor([int((number + 0.5) / len(chosen) * made.process.num_steps)])
        x = torch.cat([made.process.noisy(image, noise, step), step.view(1, 1, 1, 1).expand(1, 1, *image.shape[2:])], 1)
        picture = made.pictures(image)[0].permute(1, 2, 0).numpy()
        samples.append(Sample(batch["id"], picture if picture.shape[-1] == 3 else picture[..., 0], x[0].float()))
        noises.append(noise[0])
    return made.model, made.device, samples, noises


def logits_and_labels(run: Run, predictor: Predictor, part: str, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return logits `(K, N)` and labels `(N,)` of cases of a part, for calibration; what is ignored is left out.

    Pictures are seen on the grid of the network. Volumes are predicted as a whole, window by window, and seen in their
    own grid, `MOST_VOLUMES` of them.

    Args:
        run: The run.
        predictor: Its predictor, without flips.
        part: As in `kanscan.pipelines.evaluation_cases`.
        count: How many, at most.
    """
    if not isinstance(predictor, VolumePredictor):
        return [
            (_logits(predictor, sample.x)[:, sample.known], sample.label[sample.known])
            for sample in case_samples(run, predictor, part, count)
            if sample.label is not None
        ]
    cases, label_map = _spread(run, part, min(count, MOST_VOLUMES))
    pairs = []
    for case in cases:
        volume, label = read_volume_pair(case, label_map)
        found = predictor(volume, probabilities=True).probabilities
        assert found is not None
        step = -(-label.size // MOST_VOXELS)
        probabilities = torch.from_numpy(found.reshape(len(found), -1)[:, ::step].copy())
        # Softmax undoes the logarithm; what it loses is a number the same for all classes.
        logits = probabilities.clamp_min(1e-12).log()
        thinned = torch.from_numpy(label.reshape(-1)[::step].astype(np.int64))
        known = thinned != IGNORED
        pairs.append((logits[:, known], thinned[known]))
    return pairs


def _spread(run: Run, part: str, count: int) -> tuple[list[Case], Any]:
    found = evaluation_cases(run, part=part)
    # Spread over the part, so that neighbors in a sequence do not stand for all.
    step = max(1, len(found.cases) / max(1, count))
    chosen = [found.cases[int(i * step)] for i in range(min(count, len(found.cases)))]
    return chosen, found.source.label_map


def _logits(predictor: Predictor, x: Tensor) -> Tensor:
    return torch.from_numpy(predictor.network(x[None].numpy())[0])


def _picture_sample(predictor: PicturePredictor, name: str, image: NDArray, label: NDArray | None) -> Sample:
    x = predictor.prepare(image)
    picture = predictor.preprocessing.prepare(image).transpose(1, 2, 0)
    # Without a fixed size the predictor pads at the bottom and the right.
    bottom, right = (int(p) - int(s) for p, s in zip(x.shape[1:], picture.shape[:2], strict=True))
    beside = ((0, bottom), (0, right))
    picture = np.pad(picture, (*beside, (0, 0)), mode="edge").astype(np.uint8)
    picture = picture[..., 0] if picture.shape[-1] != 3 else picture
    sample = Sample(name, picture, torch.from_numpy(x))
    if label is None:
        return sample
    return replace(sample, label=torch.from_numpy(np.pad(predictor.preprocessing.prepare_label(label), beside)).long())


def _volume_sample(predictor: VolumePredictor, name: str, volume: Volume, label: NDArray | None) -> Sample:
    """Cut the patch around the middle of the foreground; without a label, of what the network predicts."""
    prepared = prepare_volume(volume, predictor.plan)
    known = label if label is not None else predictor(volume).label
    classes = prepare_label(known, prepared, len(predictor.class_names))
    places = {int(k): np.argwhere(classes == k) for k in np.unique(classes) if k not in (0, IGNORED)}
    case = CachedCase(name, prepared.image, classes, places)
    x, cropped = cut(case, middle_of_foreground(case), predictor.plan.patch_size, predictor.plan.slice_axis)
    x = as_seen(x, predictor.plan)
    axes = [axis for axis in range(3) if axis != predictor.plan.slice_axis]
    spacing = tuple(predictor.plan.spacing_mm[axis] for axis in axes)
    picture = x[0].numpy()
    low, high = np.percentile(picture, (0.5, 99.5))
    picture = np.clip((picture - low) / max(float(high - low), 1e-12), 0, 1)
    shown = (picture * 255).astype(np.uint8)
    return Sample(name, shown, x, cropped if label is not None else None, spacing)
