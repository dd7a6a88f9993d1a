"""The promises networks keep: one that labels images, one that predicts noise."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kanscan.metrics.logits import legal_size


class Network(nn.Module, ABC):
    """What every network of the catalogue has, whatever it predicts.

    The constructor's signature is the configuration: keyword arguments with plain values only (numbers, strings,
    booleans, tuples), each with a type and a default, so that a Run can write them down and build the network again.
    Of these names the data fill in `in_channels` and `out_channels`, and where the signature has them `spatial_dims`,
    `image_size`, `deep_supervision`, `num_steps`, `strides` and `kernel_sizes`.

    What a network must have: `tiny`, `forward`, and in each instance `in_channels`, `stride` and where it is not 2
    `spatial_dims`. All else here may be declared. `kanscan.models.conformance.check_network` says what is missing.

    Attributes:
        paper: Key of the paper that proposed the network (a file in `kanscan/papers`), or None.
        presets: Named sets of constructor options ("small", "paper", "release").
        supports: Numbers of spatial dimensions the class can be built for.
        in_channels: Channels of the input image.
        spatial_dims: 2 or 3.
        stride: Every spatial size must be a multiple of it, one number per axis.
        image_size: The only size the instance takes, or None where it takes any multiple of `stride`.
    """

    paper: ClassVar[str | None] = None
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    supports: ClassVar[tuple[int, ...]] = (2,)
    #: Ordered (pattern, replacement) pairs of `re.sub` that turn our parameter names into the released ones; layers may
    #: have `released_buffers()`, constants that the released code stores and ours computes.
    released_names: ClassVar[Sequence[tuple[str, str]]] = ()
    #: Patterns of parameters that the released network stores and never uses; they get no gradient.
    unused_parameters: ClassVar[Sequence[str]] = ()

    #: Patterns of the parameters of heads that `side_outputs` alone uses.
    side_parameters: Sequence[str] = ()

    #: Whether a batch without images gives one without logits; else it is refused.
    takes_no_images: ClassVar[bool] = True

    in_channels: int
    spatial_dims: int = 2
    stride: tuple[int, ...]
    image_size: tuple[int, ...] | None = None

    @classmethod
    @abstractmethod
    def tiny(cls, **options: Any) -> Self:
        """Build the smallest honest instance: every kind of layer present, a test finishes in a second."""

    def example_inputs(self, size: Sequence[int], batch_size: int = 1) -> tuple[Tensor, ...]:
        """Return zeros that `forward` takes for images of `size`, on the device of the weights."""
        like = next(self.parameters())
        return (torch.zeros(batch_size, self.in_channels, *size, dtype=like.dtype, device=like.device),)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What torch's DistributedDataParallel must not wait for: parameters that `forward` gives no gradient."""
        patterns = (*self.unused_parameters, *self.side_parameters)
        return [name for name, _ in self.named_parameters() if any(re.search(pattern, name) for pattern in patterns)]

    def load_pretrained(self, weights: Mapping[str, Any]) -> object:
        """Fill the encoder with weights learned elsewhere (`model.pretrained`); networks that can do it override this.

        Returns:
            What was taken; its `str` is told to the user.

        Raises:
            ValueError: This network takes none, or the weights do not fit.
        """
        raise ValueError(f"{type(self).__name__} has no pretrained encoder to load; leave out model.pretrained")

    def check_input(self, x: Tensor) -> None:
        """Refuse an input this network cannot take.

        Raises:
            ValueError: The rank, the channel count or a spatial size is wrong; the sentence names the next legal size.
        """
        name = type(self).__name__
        if x.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"{name} takes images of shape (batch, channels, {', '.join(_AXES[self.spatial_dims])}), "
                f"got {tuple(x.shape)}"
            )
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"{name} was built for {self.in_channels} input channels, got {x.shape[1]}; "
                f"build it with in_channels={x.shape[1]}"
            )
        if not self.takes_no_images and x.shape[0] == 0:
            raise ValueError(f"{name} takes one image or more, got a batch of none")
        # No number is taken of a size that fits: in a graph that is recorded it may be a symbol.
        if all(s > 0 and s % m == 0 for s, m in zip(x.shape[2:], self.stride, strict=True)):
            return
        size = tuple(int(s) for s in x.shape[2:])
        legal = legal_size(size, self.stride)
        raise ValueError(
            f"{name} needs a size that is a multiple of {' x '.join(map(str, self.stride))}, "
            f"got {' x '.join(map(str, size))}; the next legal size is {' x '.join(map(str, legal))}"
        )

    def released_name(self, name: str) -> str:
        """Return the name that the released code gives to our parameter or buffer `name`."""
        for pattern, replacement in self.released_names:
            name = re.sub(pattern, replacement, name)
        return name

    def to_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename our state dict to the released keys and add the constants that the released code stores."""
        return {self.released_name(name): tensor for name, tensor in state.items()} | self._released_buffers()

    def from_released(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a released state dict to ours; keys that are not this network's stay under their own name.

        Raises:
            ValueError: A constant that our network does not store (knots of a spline grid) differs from ours.
        """
        ours = {self.released_name(name): name for name in self.state_dict()}
        constants = self._released_buffers()
        for name in constants.keys() & state.keys():
            if state[name].shape == constants[name].shape and not torch.allclose(
                state[name].to(constants[name]), constants[name], atol=1e-5
            ):
                raise ValueError(
                    f"{name} differs from the uniform grid this {type(self).__name__} was built with; "
                    "pass the grid_size, spline_order and grid_range of the checkpoint (grids that moved are not read)"
                )
        return {ours.get(name, name): tensor for name, tensor in state.items() if name not in constants}

    def _released_buffers(self) -> dict[str, Tensor]:
        constants: dict[str, Tensor] = {}
        for path, module in self.named_modules():
            give = getattr(module, "released_buffers", None)
            if give is not None:
                constants |= {self.released_name(f"{path}.{name}"): value for name, value in give().items()}
        return constants


class SegmentationModel(Network):
    """A network that maps images `(B, in_channels, *S)` to logits `(B, out_channels, *S)`.

    Attributes:
        out_channels: Channels of the logits: 1 for binary tasks, one per class (background included) otherwise.
    """

    out_channels: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, out_channels, *S)` of an image batch `(B, in_channels, *S)`."""

    def side_outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits at every supervised scale, full resolution first."""
        return [self(x)]


class NoisePredictor(Network):
    """A network that predicts the noise in images `(B, in_channels, *S)` after `t` steps of diffusion.

    Attributes:
        num_steps: Number of steps T; `t` runs from 0 to T - 1.
    """

    num_steps: int

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise, shaped like the noisy images `x`; `t` holds one step for each of them."""

    def example_inputs(self, size: Sequence[int], batch_size: int = 1) -> tuple[Tensor, ...]:
        """Return zeros that `forward` takes for images of `size`, on the device of the weights."""
        (x,) = super().example_inputs(size, batch_size)
        return x, torch.zeros(batch_size, dtype=torch.long, device=x.device)

    def check_steps(self, x: Tensor, t: Tensor) -> None:
        """Refuse steps that do not belong to the images.

        Raises:
            ValueError: Not one whole number for each image.
        """
        if t.shape != x.shape[:1] or t.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} takes one step from 0 to {self.num_steps - 1} for each of the {x.shape[0]} "
                f"images, got {t.dtype} of shape {tuple(t.shape)}"
            )


_AXES = {2: ("height", "width"), 3: ("depth", "height", "width")}
