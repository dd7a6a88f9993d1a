"""How far generated pictures are from real ones: Fréchet distance, inception score, nearest real neighbors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Parts that the inception score is averaged over.
SPLITS = 10


def frechet_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return the Fréchet distance of two normal distributions fitted to features (FID, Heusel et al. 2017).

    It is biased upward for few pictures: compare only figures from equally many.

    Args:
        one: Features `(N, D)`.
        other: Features `(M, D)`.

    Raises:
        ValueError: There are fewer than two pictures on a side, the features differ in number, or hold NaN.

    Example:
        >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
        9.0
    """
    for features in (one, other):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"a distance of distributions needs two pictures on each side, got {len(features)}")
        if not np.isfinite(features).all():
            raise ValueError("the features hold NaN or infinite values; the feature network does not suit the pictures")
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"features of two lengths cannot be compared: {one.shape[1]} and {other.shape[1]}")
    a, b = one.astype(np.float64), other.astype(np.float64)
    shift = a.mean(0) - b.mean(0)
    spread_a, spread_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    distance = shift @ shift + np.trace(spread_a) + np.trace(spread_b) - 2 * _trace_of_root(spread_a, spread_b)
    # Rounding can leave equal sets a hair below zero.
    return float(max(distance, 0.0))


def _trace_of_root(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the trace of the matrix root of a product of covariances.

    The product has the eigenvalues of root(one) @ other @ root(one), which is symmetric: no complex remainders, and no
    failure where there are fewer pictures than features.
    """
    from scipy.linalg import eigh, eigvalsh

    values, vectors = eigh(one)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return float(np.sqrt(np.clip(eigvalsh(root @ other @ root), 0, None)).sum())


def inception_score(probabilities: NDArray[np.floating], splits: int = SPLITS) -> tuple[float, float]:
    """Return mean and deviation of the inception score over parts of the pictures (Salimans et al. 2016).

    Args:
        probabilities: `(N, K)` class probabilities of the pictures.
        splits: Parts, in the order of the pictures.

    Raises:
        ValueError: There are fewer pictures than parts, or rows are no probabilities.

    Example:
        >>> inception_score(np.tile(np.eye(2), (10, 1)))
        (2.0, 0.0)
    """
    p = probabilities.astype(np.float64)
    if len(p) < splits:
        raise ValueError(f"an inception score of {splits} parts needs as many pictures, got {len(p)}")
    if p.min() < 0 or np.abs(p.sum(1) - 1).max() > 1e-3:
        raise ValueError("an inception score needs class probabilities: positive, with the sum 1 for each picture")
    scores = []
    for part in np.array_split(p, splits):
        mean = part.mean(0, keepdims=True)
        # A class of probability 0 adds nothing.
        terms = part * (np.log(np.maximum(part, 1e-300)) - np.log(np.maximum(mean, 1e-300)))
        scores.append(float(np.exp(terms.sum(1).mean())))
    return float(np.mean(scores)), float(np.std(scores))


@dataclass(frozen=True)
class Neighbors:
    """The nearest real picture of each picture.

    Attributes:
        indices: `(N,)` places among the real pictures.
        distances: `(N,)` root mean square difference in grey levels.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]


def nearest_neighbors(
    pictures: NDArray[np.uint8], real: NDArray[np.uint8], *, mirrored: bool = True, exclude_self: bool = False
) -> Neighbors:
    """Find what each picture could be a copy of.

    Args:
        pictures: `(N, C, H, W)`.
        real: `(M, C, H, W)`.
        mirrored: Look at the mirror images of the real pictures too, which a training with flips has seen.
        exclude_self: The two are the same pictures, and none is its own neighbor.

    Raises:
        ValueError: There is no real picture to be near to, or sizes differ.
    """
    if len(real) < 1 + exclude_self:
        raise ValueError("there is no real picture to compare with")
    if pictures.shape[1:] != real.shape[1:]:
        raise ValueError(f"pictures of two sizes cannot be compared: {pictures.shape[1:]} and {real.shape[1:]}")
    views = [real, real[..., ::-1], real[..., ::-1, :], real[..., ::-1, ::-1]] if mirrored else [real]
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    # In one product a view: |a|^2 - 2 a.b + |b|^2.
    squares = np.full((len(flat), len(real)), np.inf)
    for view in views:
        other = view.reshape(len(view), -1).astype(np.float64)
        products = (flat**2).sum(1)[:, None] - 2 * flat @ other.T + (other**2).sum(1)[None]
        squares = np.minimum(squares, products)
    if exclude_self:
        np.fill_diagonal(squares, np.inf)
    indices = squares.argmin(1)
    distances = np.sqrt(np.clip(squares[np.arange(len(flat)), indices], 0, None) / flat.shape[1])
    return Neighbors(indices, distances)
