"""The page of generated pictures: how they came out of noise, how far they are from real ones, what they copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from kanscan.drawing.images import contact_sheet, png_bytes
from kanscan.drawing.pages import Figure, Part, Section, Table, facts, page, picture_address
from kanscan.metrics.features import FeatureNet
from kanscan.metrics.generation import SPLITS, frechet_distance, inception_score, nearest_neighbors

#: Samples whose nearest neighbors are shown.
SHOWN_NEIGHBORS = 12
#: A sample closer to a picture learned from than this share of the pictures kept apart is counted as a likely copy.
COPY_QUANTILE = 0.01

#: Smallest deviation of a built-in feature: what one grey level does.
UNIT_FLOOR = 1 / 127.5

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance between two sets of pictures.

    Attributes:
        one: What the first set is.
        other: What the second set is.
        num_one: Pictures in the first.
        num_other: Pictures in the second.
        value: The distance.
    """

    one: str
    other: str
    num_one: int
    num_other: int
    value: float


@dataclass(frozen=True)
class GenerationScores:
    """How generated pictures compare with real ones.

    Attributes:
        features: Which features were compared.
        relative: The distances are for comparison with one another only.
        distances: Fréchet distances (FID).
        inception: Mean and deviation over ten parts, or None where the features give no classes.
        sample_distance: Median distance of a sample to the nearest picture learned from, in grey levels.
        held_out_distance: The same of pictures kept apart, or, where there are none, among those learned from.
        held_out: Which of the two.
        num_copies: Samples closer than the closest percent of those.
        nearest: For each sample the picture learned from that is nearest, and its distance.
        notes: What limits these figures.
    """

    features: str
    relative: bool
    distances: tuple[Distance, ...]
    inception: tuple[float, float] | None
    sample_distance: float
    held_out_distance: float
    held_out: str
    num_copies: int
    nearest: tuple[tuple[int, float], ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self)


def score_generation(
    samples: Pictures, train: Pictures, test: Pictures, features: FeatureNet, *, mirrored: bool = True
) -> GenerationScores:
    """Compare generated pictures with real ones.

    Args:
        samples: `(N, C, H, W)`.
        train: `(M, C, H, W)`: the pictures learned from.
        test: `(K, C, H, W)`: pictures kept apart; may be empty.
        features: What they are compared by.
        mirrored: Training flipped the pictures, so a mirrored copy is a copy.

    Raises:
        ValueError: There are too few pictures, or the feature network does not suit them.
    """
    of_samples, classes = features(samples)
    of_train, _ = features(train)
    # Filters without a meaning have no scale: brightness, which varies most, would hide noise, which hardly varies.
    unit = np.maximum(of_train.std(0), UNIT_FLOOR) if features.relative else np.ones(of_train.shape[1])
    of_samples, of_train = of_samples / unit, of_train / unit
    pairs = [("samples", "pictures learned from", of_samples, of_train)]
    if len(test) > 1:
        of_test = features(test)[0] / unit
        pairs += [
            ("samples", "pictures kept apart", of_samples, of_test),
            ("pictures kept apart", "pictures learned from", of_test, of_train),
        ]
    distances = tuple(Distance(a, b, len(x), len(y), frechet_distance(x, y)) for a, b, x, y in pairs)
    near = nearest_neighbors(samples, train, mirrored=mirrored)
    apart = len(test) > 1
    real = nearest_neighbors(test if apart else train, train, mirrored=mirrored, exclude_self=not apart)
    notes = []
    if len(samples) <= of_samples.shape[1]:
        notes.append(
            f"{len(samples)} samples for {of_samples.shape[1]} features: the distances are biased upward; compare only "
            "with figures from as many samples"
        )
    if classes is None:
        notes.append("these features give no class probabilities, so there is no inception score")
    elif len(samples) < SPLITS:
        notes.append(f"an inception score of {SPLITS} parts needs at least as many samples")
    return GenerationScores(
        features=features.about,
        relative=features.relative,
        distances=distances,
        inception=None if classes is None or len(samples) < SPLITS else inception_score(classes),
        sample_distance=float(np.median(near.distances)),
        held_out_distance=float(np.median(real.distances)),
        held_out="pictures kept apart" if apart else "the pictures learned from, each without itself",
        num_copies=int((near.distances < np.quantile(real.distances, COPY_QUANTILE)).sum()),
        nearest=tuple((int(i), float(d)) for i, d in zip(near.indices, near.distances, strict=True)),
        notes=tuple(notes),
    )


def generation_page(
    title: str,
    lead: str,
    sheet: bytes,
    strip: bytes | None,
    made: Mapping[str, str],
    scores: GenerationScores | None = None,
    neighbors: bytes | None = None,
) -> str:
    """Draw the page.

    Args:
        title: Heading.
        lead: The sentence below it.
        sheet: PNG of the samples.
        strip: PNG of how the first ones came out of noise.
        made: How the samples were made, name -> value.
        scores: How they compare with real pictures.
        neighbors: PNG of samples beside their nearest neighbors.
    """
    sections = [Section("Samples", [_picture(sheet, "Samples in the order of their numbers; none was left out.")])]
    if strip is not None:
        caption = "The first samples on their way: pure noise at the left, the result at the right."
        sections.append(Section("From noise to picture", [_picture(strip, caption)]))
    if scores is not None:
        sections += [Section("Distance from real pictures", _distances(scores)), _copies(scores, neighbors)]
    sections.append(Section("How they were made", [facts(made.items())]))
    return page(title, lead, sections)


def _picture(png: bytes, caption: str) -> Figure:
    return Figure(picture_address(png), caption)


def _distances(scores: GenerationScores) -> list[Part]:
    rows = [[d.one, d.other, str(d.num_one), str(d.num_other), f"{d.value:.4g}"] for d in scores.distances]
    columns = ["", "compared with", "pictures", "with", "Fréchet distance (FID)"]
    parts: list[Part] = [f"Features: {scores.features}.", Table(columns, rows, numeric=(2, 3, 4))]
    if len(scores.distances) > 2:
        parts.append("The last row is the distance of real pictures from real pictures: what is attainable.")
    if scores.inception is not None:
        mean, deviation = scores.inception
        parts.append(f"Inception score over {SPLITS} parts: {mean:.3f} ± {deviation:.3f}.")
    return [*parts, *(f"Note: {text}." for text in scores.notes)]


def _copies(scores: GenerationScores, neighbors: bytes | None) -> Section:
    count = len(scores.nearest)
    parts: list[Part] = [
        f"Half of the samples are closer than {scores.sample_distance:.1f} grey levels (root mean square) to a "
        f"picture learned from; of {scores.held_out} half are closer than {scores.held_out_distance:.1f}. "
        f"{scores.num_copies} of {count} samples are closer than the closest percent of those, which is what "
        "copies would be."
    ]
    if neighbors is not None:
        parts.append(_picture(neighbors, "Each sample beside the picture learned from that is nearest to it."))
    return Section("Does it copy?", parts)


def neighbor_sheet(samples: Pictures, train: Pictures, names: Sequence[str], scores: GenerationScores) -> bytes:
    """Draw the samples that are closest to a picture learned from beside it, closest first."""
    order = sorted(range(len(samples)), key=lambda i: scores.nearest[i][1])[:SHOWN_NEIGHBORS]
    tiles, captions = [], []
    for i in order:
        place, distance = scores.nearest[i]
        tiles += [samples[i].transpose(1, 2, 0), train[place].transpose(1, 2, 0)]
        captions += [f"sample {i}", f"{names[place]} ({distance:.1f})"]
    return png_bytes(contact_sheet(tiles, captions, columns=6, tile_size=128))
