"""What is done to pixels before the network sees them: channels, size, normalization; on arrays alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanscan.data.pictures.resizing import resize_image, resize_label
from kanscan.registry import Registry

Pixels = NDArray[np.float32]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _statistics(image: Pixels) -> tuple[Pixels, Pixels]:
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    if len(image) != 3:
        # Other channel counts have no color: every channel takes the average of the three.
        mean, std = mean.mean().repeat(len(image)), std.mean().repeat(len(image))
    return mean[:, None, None].astype(np.float32), std[:, None, None].astype(np.float32)


def imagenet(image: Pixels) -> Pixels:
    """Divide by 255, subtract the ImageNet mean, divide by its standard deviation (RGB)."""
    mean, std = _statistics(image)
    return (image / np.float32(255) - mean) / std


def minmax(image: Pixels) -> Pixels:
    """Stretch each image to 0..1 over all its channels; a constant image becomes 0."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def zscore(image: Pixels) -> Pixels:
    """Give each image zero mean and unit deviation over all its channels; a constant image becomes 0."""
    mean, std = (np.float32(of(image, dtype=np.float64)) for of in (np.mean, np.std))
    scaled: Pixels = (image - mean) / std if std > 1e-6 else np.zeros_like(image)
    return scaled


def unit(image: Pixels) -> Pixels:
    """Divide by 255."""
    return image / np.float32(255)


def symmetric(image: Pixels) -> Pixels:
    """Bring 0..255 to -1..1, where generated pictures live."""
    return image / 127.5 - 1


def release(image: Pixels) -> Pixels:
    """Released U-KAN recipe: the ImageNet figures applied to BGR channels, then divided by 255 once more.

    The printed results come from these inputs, which lie in about -0.0083..0.0104.
    """
    return imagenet(image[::-1]) / np.float32(255)


def release_vmkla(image: Pixels) -> Pixels:
    """Released VM-UNet / VMKLA-UNet recipe: each image stretched to 0..255.

    The data set's mean and deviation, which that code applies first, cancel in the stretch. It divides by zero on a
    constant image; here such an image becomes 0. The stretch is taken after resizing.
    """
    return minmax(image) * 255


#: Functions of a float32 `(C, h, w)` image on the 0..255 scale.
NORMALIZATIONS: Registry[Callable[[Pixels], Pixels]] = Registry(
    "normalization",
    {
        "imagenet": imagenet,
        "minmax": minmax,
        "zscore": zscore,
        "unit": unit,
        "symmetric": symmetric,
        "release": release,
        "release_vmkla": release_vmkla,
    },
)


@dataclass(frozen=True)
class Preprocessing:
    """From a picture as read to the array a network takes; the same in training, evaluation and prediction.

    8-bit pictures keep their values. Deeper ones (uint16, float) have no common scale, so each is stretched from its
    own minimum..maximum to 0..255, except float pictures within 0..1, which are multiplied by 255.

    Attributes:
        channels: Channels the network takes. Grey pictures are repeated, color is averaged for one channel.
        image_size: (height, width) to resize to, or None to keep each picture's own size.
        normalization: A key of `NORMALIZATIONS`.
        crop: Side of a square cut from the middle before resizing, at most the picture's shorter side; None: no cut.

    Example:
        >>> import numpy as np
        >>> preprocessing = Preprocessing(channels=3, image_size=(64, 96))
        >>> preprocessing(np.zeros((50, 40), np.uint8)).shape
        (3, 64, 96)
    """

    channels: int = 3
    image_size: tuple[int, int] | None = (256, 256)
    normalization: str = "imagenet"
    crop: int | None = None

    def __post_init__(self) -> None:
        NORMALIZATIONS[self.normalization]
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"crop must be at least 1, got {self.crop}")
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", tuple(self.image_size))
            if len(self.image_size) != 2 or min(self.image_size) < 1:
                raise ValueError(f"image_size must be two positive numbers (height, width), got {self.image_size}")

    def __call__(self, image: np.ndarray) -> Pixels:
        """Prepare and normalize one picture.

        Args:
            image: `(H, W)` or `(H, W, C)`, as `read_image` gives it.

        Returns:
            Float32 `(channels, h, w)`.
        """
        return self.normalize(self.prepare(image).astype(np.float32))

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Bring a picture to the 0..255 scale, the channel count, the cut and the size; what the cache keeps.

        Returns:
            `(channels, h, w)`: uint8 for 8-bit pictures, else float32.
        """
        scaled = _to_255(image)
        arranged = cut_square(_to_channels(scaled, self.channels), self.crop)
        if self.image_size is None or arranged.shape[1:] == self.image_size:
            return np.require(arranged, requirements=["C", "W"])
        return resize_image(arranged, self.image_size)

    def prepare_label(self, label: np.ndarray) -> np.ndarray:
        """Cut and resize a label map `(H, W)` as `prepare` does the picture, without mixing classes."""
        cut = cut_square(label, self.crop)
        return cut if self.image_size is None else resize_label(cut, self.image_size)

    def normalize(self, image: Pixels) -> Pixels:
        """Normalize a float32 picture `(channels, h, w)` on the 0..255 scale."""
        return NORMALIZATIONS[self.normalization](image)


def cut_square(image: np.ndarray, side: int | None, place: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """Cut a square out of an array whose last two axes are height and width.

    Args:
        image: `(..., H, W)`.
        side: Side of the square; larger than the shorter side of the picture means that one. None: no cut.
        place: Where, as shares of the room there is: (0.5, 0.5) is the middle, (0, 0) the corner at the top left.
    """
    if side is None:
        return image
    side = min(side, *image.shape[-2:])
    top, left = (int(share * (size - side + 1)) for share, size in zip(place, image.shape[-2:], strict=True))
    top, left = min(top, image.shape[-2] - side), min(left, image.shape[-1] - side)
    return np.ascontiguousarray(image[..., top : top + side, left : left + side])


def _to_255(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    values = image.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(image.dtype, np.floating) and low >= 0 and high <= 1:
        return values * 255
    return (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)


def _to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    planes = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    if len(planes) == channels:
        return planes
    if len(planes) == 1:
        return np.repeat(planes, channels, axis=0)
    if channels == 1:
        mean = planes.mean(axis=0, keepdims=True, dtype=np.float32)
        return np.rint(mean).astype(np.uint8) if image.dtype == np.uint8 else mean
    raise ValueError(
        f"the image has {len(planes)} channels, the network takes {channels}; choose channels={len(planes)} or 1"
    )
