"""From a run to the chapters of its explanation: what is looked at, and which chapter it allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kanscan.explanation import chapters
from kanscan.explanation.activation import randomized
from kanscan.explanation.chapters import Chapter, Sample
from kanscan.explanation.pruning import prune
from kanscan.explanation.scan_attention import scan_layers
from kanscan.explanation.splines import ObservedLayer
from kanscan.files import atomic
from kanscan.inference import Predictor
from kanscan.inference.torch_network import TorchNetwork
from kanscan.metrics import case_scores
from kanscan.metrics.logits import probabilities as class_probabilities
from kanscan.models import create_model
from kanscan.run import Run
from kanscan.run.facts import GenerationFacts, VolumeFacts
from kanscan.workflows.explain.samples import (
    MOST_VOLUMES,
    case_samples,
    logits_and_labels,
    named_samples,
    noisy_samples,
)
from kanscan.workflows.predictable import TrainedRun
from kanscan.workflows.temperature import keep_temperature

#: Test cases that statistics are averaged over, unless the user says how many.
MOST_PICTURES = 24

_GENERATES = "the network generates pictures and tells no classes apart"


class AtStep(nn.Module):
    """A network of a diffusion that takes its step as the last channel of the image.

    Args:
        network: Called with image and step.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the noise in `(B, C + 1, H, W)`, the step being constant on the last channel."""
        noise: Tensor = self.network(x[:, :-1], x[:, -1, 0, 0].round().long())
        return noise


@dataclass(frozen=True)
class Session:
    """A network and what it is looked at on.

    Attributes:
        run: The run.
        model: Its network, in evaluation mode.
        device: Where it is.
        samples: Images.
        predictor: The run's predictor; None where it generates.
        noises: Of a run that generates: what was added to each sample.
    """

    run: Run
    model: nn.Module
    device: torch.device
    samples: Sequence[Sample]
    predictor: Predictor | None
    noises: Sequence[Tensor] = field(default_factory=tuple)

    def further(self, paths: Sequence[Path] | None, *, alike: bool) -> dict[str, nn.Module]:
        """Load the networks of other runs, by the names of their folders.

        Args:
            paths: The runs.
            alike: They must tell the same classes apart.

        Raises:
            ValueError: One takes other images, or tells other classes apart where it must not.
        """
        found: dict[str, nn.Module] = {}
        for path in paths or ():
            if self.predictor is None:
                raise ValueError(f"{self.run.path} generates pictures; no other run is compared with it")
            other = TrainedRun(Run.open(path)).predictor(device=str(self.device), flips=False)
            if other.takes != self.predictor.takes or (alike and other.class_names != self.predictor.class_names):
                raise ValueError(
                    f"{path} has other classes or another preprocessing than {self.run.path}; they cannot be compared"
                )
            name = Path(path).name
            found[name if name not in found else str(path)] = _torch_network(other).model
        return found


def look_at(run: Run, images: Sequence[Path], cases: int | None, device: str) -> Session:
    """Load a run's network and the images it is looked at on.

    Args:
        run: The run.
        images: Files that the user named; none: test cases.
        cases: How many of these, at most; None: `MOST_PICTURES`, or `MOST_VOLUMES`.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        ValueError: An image does not suit the network, or there are no test cases.
        FileNotFoundError: Weights, images or data are not there.
    """
    facts = run.facts
    if cases is None:
        cases = MOST_VOLUMES if isinstance(facts, VolumeFacts) else MOST_PICTURES
    if cases < 1:
        raise ValueError(f"--cases must be 1 or more, got {cases}")
    if isinstance(facts, GenerationFacts):
        if images:
            raise ValueError(f"{run.path} generates pictures; it is looked at on those it learned from, name no images")
        model, chosen, samples, noises = noisy_samples(run, cases, device)
        return Session(run, AtStep(model), chosen, samples, None, noises)
    serving = TrainedRun(run).predictor(device=device, flips=False)
    samples = named_samples(run, serving, images) if images else case_samples(run, serving, "test", cases)
    network = _torch_network(serving)
    return Session(run, network.model, torch.device(network.device), samples, serving)


def _torch_network(predictor: Predictor) -> TorchNetwork:
    assert isinstance(predictor.network, TorchNetwork)  # it was built from a run
    return predictor.network


class Study:
    """Writes the chapters that a run allows; later ones use what earlier ones found.

    Args:
        session: What is looked at.
        others: Further networks on the same task.
        scanning: Networks whose scans stand beside linear attention.
        shown: Images that are drawn.
        layer: Layer whose maps are shown; None: chosen.
        position: Place whose scans are shown, as shares of the axes.

    Raises:
        ValueError: The position has more shares than the images axes.
    """

    def __init__(
        self,
        session: Session,
        others: Mapping[str, nn.Module],
        scanning: Mapping[str, nn.Module],
        shown: int,
        layer: str | None,
        position: tuple[float, ...],
    ) -> None:
        self.session, self.run, self.model, self.device = session, session.run, session.model, session.device
        self.others, self.scanning = others, scanning
        self.samples, self.shown, self.layer, self.position = session.samples, session.samples[:shown], layer, position
        self.temperature: float | None = None
        self._layers: list[ObservedLayer] | None = None
        dims = self.samples[0].x.ndim - 1
        if len(position) > dims:
            raise ValueError(f"at names {len(position)} shares, the network's images have {dims} axes")

    def lead(self) -> str:
        """Say what was looked at."""
        facts, images = self.run.facts, f"{len(self.samples)} images"
        if isinstance(facts, VolumeFacts):
            what = "slice" if self.samples[0].x.ndim == 3 else "patch"
            size = " x ".join(map(str, self.samples[0].x.shape[1:]))
            images += f" (of each volume the {what} of {size} voxels around the middle of its foreground)"
        if self.session.predictor is None:
            images += " with noise of steps spread over the whole process"
        return (
            f"{facts.model.name}, {facts.num_parameters:,} parameters, run {self.run.path.name}; looked at on "
            f"{images}. Arrays lie beside this page as npz, figures as SVG and PNG."
        )

    def write(self, asked: Sequence[str], *, explicitly: bool) -> tuple[list[Chapter], dict[str, str]]:
        """Write the chapters; one that cannot be written is left out with the reason, unless it was asked for."""
        written, left_out = [], {}
        for name in asked:
            try:
                written.append(getattr(self, name)())
            except ValueError as error:
                if explicitly:
                    raise
                left_out[name] = str(error)
        return written, left_out

    @property
    def predictor(self) -> Predictor:
        """The run's predictor.

        Raises:
            ValueError: The run generates.
        """
        if self.session.predictor is None:
            raise ValueError(_GENERATES)
        return self.session.predictor

    def control(self) -> nn.Module:
        """Build the same network with random weights."""
        facts = self.run.facts.model

        def build() -> nn.Module:
            fresh = create_model(facts.name, **facts.options)
            return AtStep(fresh) if self.session.predictor is None else fresh

        return randomized(self.model, build)

    def splines(self) -> Chapter:
        """Observe the splines."""
        chapter, self._layers = chapters.splines(self.model, self.samples, self.device)
        return chapter

    def layers(self) -> list[ObservedLayer]:
        """Return the observed KAN layers."""
        if self._layers is None:
            self.splines()
        assert self._layers is not None
        return self._layers

    def pruning(self) -> Chapter:
        """Judge the network without its weakest edges."""
        if self.session.predictor is None:
            error = "mean squared error of the noise"
            return chapters.pruning(self.model, self.layers(), self._noise_error, error, len(self.samples))
        labelled = [s for s in self.samples if s.label is not None]
        if not labelled:
            raise ValueError("a prune curve needs labels; leave out the images to use the run's test cases")
        return chapters.pruning(self.model, self.layers(), self._judge(labelled), "mean Dice", len(labelled))

    @torch.inference_mode()
    def _noise_error(self, model: nn.Module) -> float:
        errors = [
            float((model(sample.x[None].to(self.device))[0].cpu() - noise).square().mean())
            for sample, noise in zip(self.samples, self.session.noises, strict=True)
        ]
        return sum(errors) / len(errors)

    def _judge(self, labelled: Sequence[Sample]) -> Callable[[nn.Module], float]:
        num_classes = len(self.predictor.class_names)

        @torch.inference_mode()
        def judge(model: nn.Module) -> float:
            scores = []
            for sample in labelled:
                assert sample.label is not None
                label = class_probabilities(model(sample.x[None].to(self.device)))[0].argmax(0).cpu()
                rows = case_scores(label.numpy(), sample.label.numpy(), num_classes)
                scores += [rows[index]["dice"] for index in range(1, num_classes)]
            known = [s for s in scores if s == s]
            return sum(known) / max(1, len(known))

        return judge

    def maps(self) -> Chapter:
        """Show where the network looks."""
        names, shown = self.predictor.class_names, len(self.shown)
        return chapters.maps(self.model, self.control(), self.samples, names, self.device, self.layer, shown)

    def receptive_field(self) -> Chapter:
        """Show what moves the central output."""
        return chapters.field_of_view(self.model, self.control(), self.samples, self.device)

    def scans(self) -> Chapter:
        """Show what a place receives along the scans."""
        known = scan_layers(self.model)
        around = {name.rpartition(".")[0] for name in known}
        layer = self.layer if self.layer in {*known, *around} else None
        return chapters.scans(self.model, self.control(), self.shown, self.position, self.device, layer)

    def attention(self) -> Chapter:
        """Set KAN attention beside scans."""
        row, column = self.position[-2:]
        return chapters.attention(self.model, self.control(), self.shown, (row, column), self.device, self.scanning)

    def uncertainty(self) -> Chapter:
        """Show where predictions disagree."""
        if self.session.predictor is None:
            raise ValueError(_GENERATES)

        @torch.inference_mode()
        def probabilities(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return class_probabilities(model(x))

        return chapters.uncertainty([self.model, *self.others.values()], probabilities, self.shown, self.device)

    def calibration(self) -> Chapter:
        """Fit a temperature on the validation cases, judge it on the test cases, keep it in the run."""
        predictor = self.predictor
        if all(s.label is None for s in self.samples):
            raise ValueError("calibration needs labels; leave out the images to use the run's test cases")
        fitted_on, judged_on = (
            logits_and_labels(self.run, predictor, part, len(self.samples)) for part in ("validation", "test")
        )
        chapter, found = chapters.calibrating(
            fitted_on, judged_on, "voxels" if isinstance(self.run.facts, VolumeFacts) else "pixels"
        )
        self.temperature = found.temperature
        content = {
            "temperature": found.temperature,
            "num_validation_cases": len(fitted_on),
            "num_test_cases": len(judged_on),
            "expected_calibration_error": found.before.error,
            "expected_calibration_error_with_temperature": found.after.error,
        }
        keep_temperature(self.run, content)
        return chapter

    def save_pruned(self, share: float, folder: Path, overwrite: bool) -> Path:
        """Save the network without a share of its edges as a run that predicts and is evaluated like any other."""
        if Run(folder).recipe_path.exists() and not overwrite:
            Run(folder).demand_new()
        pruned = prune(self.model, self.layers(), share)
        weights = (pruned.network if isinstance(pruned, AtStep) else pruned).state_dict()
        run = self.run.derive(folder, self.run.facts.model_copy(update={"pruned_share": share}))
        with atomic(run.weights_path) as path:
            save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, path)
        return folder
