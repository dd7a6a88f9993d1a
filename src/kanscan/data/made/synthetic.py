"""A synthetic breast-ultrasound set: layered tissue, speckle, attenuation, and lesions that cast shadows.

The picture is built the way a scanner builds one, much simplified: an echo strength in decibels for each place, random
scatterers blurred by a beam that is narrow in depth and wide across it, attenuation summed along the beam, and log
compression at the end. Three kinds of lesion occur, each with the signs a reader of such pictures looks for:

* cyst: oval, sharp, free of echoes, bright behind it;
* benign: oval, wider than tall, darker than the gland, a thin bright capsule;
* malignant: irregular and spiculated, upright, a bright rim, a shadow behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from kanscan.data.made.generated import GeneratedCase, write_generated

KINDS = ("cyst", "benign", "malignant")
VALUES = {"background": 0, "lesion": 255}
MADE_BY = "kanscan synthetic ultrasound"

#: Echo strength in dB of gel, skin, fat, gland, muscle, and what lies deepest.
_LAYER_DB = (-70.0, -12.0, -29.0, -18.0, -27.0, -23.0)
#: Depths (fractions of the picture) where one layer gives way to the next, before they are bent.
_LAYER_DEPTHS = (0.012, 0.04, 0.24, 0.74, 0.92)
_DYNAMIC_RANGE_DB = 58.0
_LESION_DB = {"cyst": -56.0, "benign": -31.0, "malignant": -36.0}
#: Two-way attenuation inside the lesion, beyond that of the tissue around it, in dB over the full depth.
_LESION_ATTENUATION_DB = {"cyst": -45.0, "benign": -14.0, "malignant": 60.0}


@dataclass(frozen=True)
class Lesion:
    """Where a lesion lies and what its border looks like; lengths are fractions of the picture's height.

    Attributes:
        kind: One of `KINDS`.
        center: (depth, lateral) position.
        radii: (depth, lateral) half axes.
        angle: Rotation in radians.
        border: Radius at equally spaced angles, 1 for an ellipse.
    """

    kind: str
    center: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    border: np.ndarray

    def distance(self, depth: np.ndarray, lateral: np.ndarray) -> np.ndarray:
        """Return a signed border function: negative inside, 0 on the border, about one per radius outside."""
        z, x = depth - self.center[0], lateral - self.center[1]
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        z, x = (cos * z - sin * x) / self.radii[0], (sin * z + cos * x) / self.radii[1]
        angles = np.linspace(-np.pi, np.pi, self.border.size, endpoint=False)
        return np.hypot(z, x) - np.interp(np.arctan2(z, x), angles, self.border, period=2 * np.pi)


def draw_lesion(rng: np.random.Generator, kind: str) -> Lesion:
    """Draw a lesion of one kind."""
    size = rng.uniform(0.09, 0.17)
    flat = rng.uniform(1.3, 1.8) if kind != "malignant" else rng.uniform(0.8, 1.15)
    rough = {"cyst": 0.04, "benign": 0.07, "malignant": 0.15}[kind]
    border = 1 + rough * _ring(rng, 14)
    if kind == "malignant":
        # Two finer octaves, outward only: lobes and spicules of unequal length.
        border = border + 0.20 * np.maximum(_ring(rng, 5), 0) + 0.22 * np.maximum(_ring(rng, 2) - 0.5, 0)
    return Lesion(
        kind=kind,
        center=(rng.uniform(0.38, 0.52), rng.uniform(0.3, 0.7)),
        radii=(size / np.sqrt(flat), size * np.sqrt(flat)),
        angle=rng.normal(0, 0.18),
        border=np.maximum(border, 0.5),
    )


def _ring(rng: np.random.Generator, width: float) -> np.ndarray:
    """Return unit-variance noise around a circle of 128 places, smoothed over `width` places."""
    noise = gaussian_filter1d(rng.standard_normal(128), width, mode="wrap")
    noise = noise - noise.mean()
    return noise / noise.std()


def draw_ultrasound(
    lesion: Lesion | None, image_size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture.

    Args:
        lesion: What to put into the tissue, or None for a normal breast.
        image_size: (height, width) in pixels, any size of at least 16.
        rng: Source of tissue and speckle.

    Returns:
        Grey values, uint8, and class indices (0 background, 1 lesion), uint8; both (height, width).
    """
    height, width = image_size
    depth = ((np.arange(height) + 0.5) / height)[:, None] * np.ones((1, width))
    lateral = ((np.arange(width) + 0.5) / width)[None, :] * np.ones((height, 1))
    echo_db, attenuation_db = _tissue(depth, lateral, rng)
    label = np.zeros(image_size, dtype=np.uint8)
    if lesion is not None:
        distance = lesion.distance(depth, lateral)
        label = (distance < 0).astype(np.uint8)
        echo_db, attenuation_db = _place(lesion, distance, depth, lateral, echo_db, attenuation_db, rng)
    # Summed along the beam; the figures already mean there and back.
    echo_db = echo_db - np.cumsum(attenuation_db, axis=0) / height
    envelope = _speckle(10 ** (echo_db / 20), rng)
    seen = 20 * np.log10(np.maximum(envelope, 1e-6)) + _DYNAMIC_RANGE_DB - 4.0
    return (np.clip(seen / _DYNAMIC_RANGE_DB, 0, 1) * 255).astype(np.uint8), label


def _smooth(shape: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Return unit-variance noise smoothed over `scale` (fractions of the shape)."""
    sigma = (scale[0] * shape[0], scale[1] * shape[1])
    noise = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return noise / (noise.std() + 1e-12)


def _tissue(depth: np.ndarray, lateral: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return echo strength and attenuation (dB) of skin, fat, gland and muscle."""
    shape = depth.shape
    echo_db = np.full(shape, _LAYER_DB[0])
    bend, fascia_db = np.zeros(shape[1]), np.full(shape, -np.inf)
    for boundary, layer_db in zip(_LAYER_DEPTHS, _LAYER_DB[1:], strict=True):
        # Each boundary follows the one above it, more freely the deeper it lies.
        wave = gaussian_filter1d(rng.standard_normal(shape[1]), 0.14 * shape[1], mode="wrap")
        bend = 0.5 * bend + wave / (wave.std() + 1e-12) * 0.03 * boundary**0.5 * (boundary > 0.1)
        border = boundary + bend[None, :]
        echo_db = np.where(depth > border, layer_db, echo_db)
        if boundary > 0.1:
            ridge = -8.0 - 0.5 * ((depth - border) / 0.006) ** 2
            fascia_db = np.maximum(fascia_db, ridge + 3 * _smooth(shape, (0.02, 0.1), rng) - 3)
    echo_db = echo_db + 3.5 * _smooth(shape, (0.03, 0.08), rng) + 2.0 * _smooth(shape, (0.012, 0.03), rng)
    fat = (depth > 0.06) & (depth < 0.26)
    septa = -9.0 - 60.0 * np.abs(_smooth(shape, (0.05, 0.12), rng))
    echo_db = np.where(fat, np.maximum(echo_db, septa), echo_db)
    muscle = (depth > 0.76) & (depth < 0.92)
    fibers = 4.5 * np.sin(2 * np.pi * (depth * 42 + 1.5 * _smooth(shape, (0.1, 0.2), rng)))
    echo_db = np.where(muscle, echo_db + fibers, echo_db)
    attenuation_db = np.full(shape, 9.0) + 2.0 * _smooth(shape, (0.08, 0.08), rng)
    return np.maximum(echo_db, fascia_db), attenuation_db


def _place(
    lesion: Lesion,
    distance: np.ndarray,
    depth: np.ndarray,
    lateral: np.ndarray,
    echo_db: np.ndarray,
    attenuation_db: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Put the lesion's echoes, rim and attenuation into the tissue."""
    inside = 1 / (1 + np.exp(distance / 0.03))
    texture = 2.5 * _smooth(depth.shape, (0.02, 0.02), rng)
    if lesion.kind == "cyst":
        # Reverberation: a haze under the near wall that fades with depth.
        texture = 22.0 * np.exp(-np.maximum(depth - lesion.center[0] + lesion.radii[0], 0) / (0.25 * lesion.radii[0]))
    echo_db = echo_db * (1 - inside) + (_LESION_DB[lesion.kind] + texture) * inside
    rim_db, rim_width = {"cyst": (4.0, 0.05), "benign": (7.0, 0.05), "malignant": (6.0, 0.16)}[lesion.kind]
    echo_db = echo_db + rim_db * np.exp(-(((distance - rim_width) / rim_width) ** 2)) * (distance > 0)
    # Softer sideways than the border itself, as the beam has a width.
    beam = gaussian_filter1d(inside, 0.022 * depth.shape[1], axis=1, mode="nearest")
    attenuation_db = attenuation_db + _LESION_ATTENUATION_DB[lesion.kind] * beam * 0.3 / (2 * lesion.radii[0])
    if lesion.kind != "malignant":
        # Smooth curved sides bend the beam away: two thin shadows behind the left and the right edge.
        for side in (-1, 1):
            edge = lesion.center[1] + side * lesion.radii[1] * 0.97
            strip = np.exp(-(((lateral - edge) / 0.012) ** 2)) * (np.abs(depth - lesion.center[0]) < 0.03)
            attenuation_db = attenuation_db + 90.0 * strip
    return echo_db, attenuation_db


def _speckle(amplitude: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur random scatterers of the given strength with the beam and take the envelope (Rayleigh speckle)."""
    height, width = amplitude.shape
    scatterers = amplitude * (rng.standard_normal(amplitude.shape) + 1j * rng.standard_normal(amplitude.shape))
    focus = 0.45
    axial = max(0.0026 * height, 0.35)
    echoes = []
    for lateral in (0.0045, 0.0095):
        sigma = (axial, max(lateral * width, 0.35))
        blurred = gaussian_filter(scatterers.real, sigma) + 1j * gaussian_filter(scatterers.imag, sigma)
        # Blurring N scatterers lowers their sum's spread; undo that so that dB stay comparable at any size.
        echoes.append(np.abs(blurred) * np.sqrt(4 * np.pi * sigma[0] * sigma[1]))
    away = np.abs((np.arange(height) + 0.5) / height - focus)[:, None] / (1 - focus)
    return echoes[0] * (1 - away) + echoes[1] * away


def ultrasound_cases(
    num_cases: int = 24,
    *,
    image_size: tuple[int, int] = (256, 256),
    seed: int = 2981,
    views: int = 2,
    normal_every: int | None = None,
) -> Iterator[GeneratedCase]:
    """Draw a whole set; case k is the same whatever `num_cases` is.

    Args:
        num_cases: Number of pictures.
        image_size: (height, width) in pixels.
        seed: Any non-negative integer.
        views: Pictures of each patient: the same lesion, other tissue and speckle. The patient is the group.
        normal_every: Every so many patients has no lesion; None: all have one.

    Yields:
        Cases named `patient001_view1`, ...

    Raises:
        ValueError: A number is out of range.
    """
    if num_cases < 1 or views < 1 or min(image_size) < 16:
        raise ValueError(
            f"a synthetic set needs at least 1 case, 1 view and 16 x 16 pixels, got {num_cases} cases, {views} views, "
            f"{image_size[0]} x {image_size[1]} pixels"
        )
    for index in range(num_cases):
        patient, view = index // views, index % views
        lesion: Lesion | None = draw_lesion(np.random.default_rng([seed, patient]), KINDS[patient % len(KINDS)])
        if normal_every and patient % normal_every == normal_every - 1:
            lesion = None
        # A third number keeps the views' streams apart from the patients'.
        image, label = draw_ultrasound(lesion, image_size, np.random.default_rng([seed, patient, view + 1]))
        kind = lesion.kind if lesion else "normal"
        facts = {"kind": kind, "lesion_fraction": round(float(label.mean()), 5)}
        group = f"patient{patient + 1:03d}"
        yield GeneratedCase(f"{group}_view{view + 1}", group, image, label, facts)


def write_ultrasound(
    root: str | Path,
    num_cases: int = 24,
    *,
    image_size: tuple[int, int] = (256, 256),
    seed: int = 2981,
    views: int = 2,
    normal_every: int | None = None,
) -> Path:
    """Write a synthetic ultrasound set as images/, masks/ (0 and 255) and manifest.json.

    Args:
        root: The folder; missing, empty, or one that this function wrote before.
        num_cases: As in `ultrasound_cases`, like all that follow.
        image_size: (height, width) in pixels.
        seed: Any non-negative integer.
        views: Pictures of each patient.
        normal_every: Every so many patients has no lesion.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder holds something else.
        ValueError: A number is out of range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_ultrasound(f"{folder}/us", 4, image_size=(64, 64))
        ...     sorted(p.name for p in root.iterdir())
        ['images', 'manifest.json', 'masks']
    """
    cases = ultrasound_cases(num_cases, image_size=image_size, seed=seed, views=views, normal_every=normal_every)
    return write_generated(
        root, cases, made_by=MADE_BY, values=VALUES, image_size=list(image_size), seed=seed, views=views
    )
