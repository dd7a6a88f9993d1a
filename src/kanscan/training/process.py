"""Noise in and noise out: the forward process of a diffusion model, and the chains that lead back to an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kanscan.config.parts import CosineNoise, DiffusionConfig, LinearNoise
from kanscan.registry import unknown

if TYPE_CHECKING:
    from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

SCHEDULES = ("linear", "cosine")
SAMPLERS = ("ddpm", "ddim")


@dataclass(frozen=True)
class NoiseProcess:
    """How an image turns into noise in T steps (Ho et al. 2020, which U-KAN section 3.4 follows).

    Attributes:
        num_steps: Number of steps T; t runs from 0 (almost clean) to T - 1.
        schedule: "linear" (betas between the two ends, as released) or "cosine" (Nichol and Dhariwal 2021).
        beta_start: First beta of the linear schedule.
        beta_end: Last beta of the linear schedule.

    Raises:
        ValueError: The schedule is unknown, or a number is not legal.

    Example:
        >>> process = NoiseProcess(num_steps=10)
        >>> process.noisy(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.tensor([0, 9])).shape
        torch.Size([2, 3, 4, 4])
    """

    num_steps: int = 1000
    schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(unknown("noise schedule", self.schedule, SCHEDULES))
        if self.num_steps < 1 or not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                "a noise process needs at least one step and 0 < beta_start <= beta_end < 1, got "
                f"{self.num_steps} steps from {self.beta_start:g} to {self.beta_end:g}"
            )

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Share of the image's variance that is left after each step, `(T,)` float64."""
        if self.schedule == "linear":
            betas = torch.linspace(self.beta_start, self.beta_end, self.num_steps, dtype=torch.float64)
        else:
            from monai.networks.schedulers.scheduler import NoiseSchedules

            betas = NoiseSchedules["cosine"](self.num_steps)[0].double()
        return torch.cumprod(1 - betas, dim=0)

    def noisy(self, image: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return images `(B, ...)` after `t` `(B,)` steps, whose noise is the given one.

        The coefficients are float64 rounded to float32, as in the released code.
        """
        kept = self.alphas_cumprod.to(torch.float64)[t.cpu()]
        shape = (-1, *[1] * (image.ndim - 1))
        signal, rest = (c.sqrt().float().to(image).view(shape) for c in (kept, 1 - kept))
        return signal * image + rest * noise

    def chain(self, sampler: str = "ddpm", num_steps: int | None = None, *, clip: bool = False) -> Chain:
        """Return the steps back from noise to an image.

        Args:
            sampler: "ddpm" (a random step each time) or "ddim" (no noise but the first).
            num_steps: How many; None: all T. Fewer leave out evenly spread ones.
            clip: Keep the image that is guessed at each step within -1..1. The released code does not; but an error
                of the first guesses is multiplied a hundredfold, and after a short training runs away.

        Raises:
            ValueError: The sampler is unknown, or there are not so many steps.
        """
        if sampler not in SAMPLERS:
            raise ValueError(unknown("sampler", sampler, SAMPLERS))
        count = self.num_steps if num_steps is None else num_steps
        if not 1 <= count <= self.num_steps:
            raise ValueError(f"steps must lie between 1 and the {self.num_steps} of the training, got {count}")
        times = np.linspace(self.num_steps - 1, 0, count).round().astype(int)
        return Chain(tuple(times.tolist()), self._scheduler(sampler, times[::-1].copy(), clip))

    def _scheduler(self, sampler: str, times: np.ndarray, clip: bool) -> DDIMScheduler | DDPMScheduler:
        from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

        # The chain is spaced anew over the chosen times: with gaps MONAI would take the step before from the full one.
        kept = self.alphas_cumprod[torch.from_numpy(times)]
        alphas = kept / torch.cat([kept.new_ones(1), kept[:-1]])
        # The released variance is the large one; over long strides it would drown the image.
        kind = "fixed_large" if len(times) == self.num_steps else "fixed_small"
        options = {"num_train_timesteps": len(times), "clip_sample": clip}
        scheduler = DDIMScheduler(**options) if sampler == "ddim" else DDPMScheduler(variance_type=kind, **options)
        scheduler.alphas_cumprod, scheduler.alphas, scheduler.betas = kept, alphas, 1 - alphas
        return scheduler


def noise_process(part: DiffusionConfig) -> NoiseProcess:
    """Build the process that a recipe describes.

    Raises:
        ValueError: The betas fall.
    """
    if isinstance(part, LinearNoise):
        return NoiseProcess(part.num_steps, part.schedule, part.beta_start, part.beta_end)
    assert isinstance(part, CosineNoise)
    return NoiseProcess(part.num_steps, part.schedule)


@dataclass(frozen=True)
class Chain:
    """Steps from noise to an image.

    Attributes:
        times: The t that the network is told, from the noisiest to 0.
        scheduler: MONAI's scheduler of a chain of this length.
    """

    times: tuple[int, ...]
    scheduler: DDIMScheduler | DDPMScheduler

    def back(self, place: int, noise: Tensor, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Take one step.

        Args:
            place: Index into `times`.
            noise: Predicted noise `(B, ...)`.
            image: Noisy images `(B, ...)`.
            generators: One an image; an image's noise does not depend on what else is in the batch.

        Returns:
            The images one step less noisy.
        """
        step = len(self.times) - 1 - place
        rows = [
            self.scheduler.step(noise[i : i + 1], step, image[i : i + 1], generator=generator)[0]
            for i, generator in enumerate(generators)
        ]
        return torch.cat(rows)


@torch.inference_mode()
def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    chain: Chain,
    shape: Sequence[int],
    generators: Sequence[torch.Generator],
    device: torch.device,
) -> Iterator[Tensor]:
    """Turn noise into images.

    Args:
        predict: Noise predictor; takes images `(B, C, H, W)` and steps `(B,)`.
        chain: The steps.
        shape: (C, H, W).
        generators: One an image, on the CPU, where all noise is drawn: any device gets the same.
        device: Where the predictor computes.

    Yields:
        The images `(B, C, H, W)` before the first step and after each; the last are the result, not yet clipped.
    """
    image = torch.cat([torch.randn(1, *shape, generator=g) for g in generators])
    yield image
    for place, time in enumerate(chain.times):
        t = torch.full((len(image),), time, dtype=torch.long, device=device)
        image = chain.back(place, predict(image.to(device), t).float().cpu(), image, generators)
        yield image


def sample_generator(seed: int, index: int) -> torch.Generator:
    """Return the random stream of sample `index` under `seed`; neighbors give unrelated streams."""
    state = np.random.SeedSequence([seed % 2**64, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % 2**63)
