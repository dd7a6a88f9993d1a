"""`sample`: a run that learned to remove noise makes pictures, and how they compare with real ones is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kanscan.workflows.sample import Samples

#: Samplers as in `kanscan.training.process.SAMPLERS`.
SAMPLER = "ddpm"


def sample(
    run: Path,
    *,
    num_samples: int = 64,
    output: Path | None = None,
    steps: int | None = None,
    sampler: str = SAMPLER,
    clip: bool = True,
    seed: int = 0,
    batch_size: int = 32,
    judge: Path | None = None,
    features: Path | None = None,
    device: str = "auto",
    json: bool = False,
) -> Samples:
    """Make pictures with a run that learned to; go on where it stopped if some are there.

    A run trained with diffusion.with_label=true makes pairs: images/ and masks/ of the same names, which train and
    check take like any other data set.

    Args:
        run: Folder that train wrote, with a network that generates.
        num_samples: How many samples the folder shall hold; those that are there are kept.
        output: Folder of the samples; default: samples/ inside the run.
        steps: Steps from noise to picture; default: all of the training. 50 with ddim are quick.
        sampler: ddpm (noise is drawn at each step, as released) or ddim (only at the start).
        clip: Keep what is guessed at each step within the range of pictures, which a short training needs; the released
            code clips the result only: --no-clip.
        seed: Seed; each sample depends on it and on its own number alone.
        batch_size: Samples at a time; changes the time, not the samples.
        judge: Folder of the run's data: tell how far the samples are from real pictures, and whether they are copies.
        features: TorchScript file of the feature network for FID and inception score; default: built-in filters, whose
            distances compare sets of pictures with one another only.
        device: auto, cpu, cuda, cuda:N or mps.
        json: Print the result as JSON.

    Returns:
        What was written.

    Raises:
        ValueError: The run does not generate, an option is wrong, or the folder holds other samples.
        FileNotFoundError: There are no weights, data or features.
        FileExistsError: The folder holds something else.

    Example:
        >>> sample("runs/ukan_diffusion-quick_s2981", num_samples=16, steps=50, sampler="ddim")  # doctest: +SKIP
    """
    from kanscan.run import Run

    opened = Run.open(run)
    from kanscan.workflows.sample import make_samples

    return make_samples(
        opened,
        num_samples=num_samples,
        output=output,
        steps=steps,
        sampler=sampler,
        clip=clip,
        seed=seed,
        batch_size=batch_size,
        judge=judge,
        features=features,
        device=device,
    )
