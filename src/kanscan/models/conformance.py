"""What every network of the catalogue promises, checked one by one: for our own tests, and for networks of others."""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kanscan.models.base import Network, NoisePredictor, SegmentationModel

#: Side of a test image where the network's stride allows it.
_SIDE = 32


@dataclass(frozen=True)
class Finding:
    """How one promise was kept.

    Attributes:
        check: A key of `CHECKS`.
        spatial_dims: 2 or 3.
        problem: What is wrong, and what would be right; "" where nothing is.
    """

    check: str
    spatial_dims: int
    problem: str


def check_network(cls: type[Network], checks: tuple[str, ...] | None = None) -> list[Finding]:
    """Check a network class, for every number of axes it says it supports.

    Args:
        cls: The class; it may come from anywhere.
        checks: Keys of `CHECKS`; None: all.

    Returns:
        One finding for each check; a problem of one does not stop the others.
    """
    found = []
    for dims in getattr(cls, "supports", (2,)):
        for name in checks or CHECKS:
            try:
                CHECKS[name](cls, dims)
                problem = ""
            except Exception as error:
                problem = str(error) or type(error).__name__
                if not isinstance(error, NotKept):
                    problem = f"{type(error).__name__}: {problem}"
            found.append(Finding(name, dims, " ".join(problem.split())))
    return found


class NotKept(Exception):  # noqa: N818 - a finding, not an accident
    """A promise is not kept; the sentence says which and what would be right."""


def _demand(condition: bool, sentence: str) -> None:
    if not condition:
        raise NotKept(sentence)


def tiny(cls: type[Network], dims: int, seed: int = 0, **options: object) -> Network:
    """Build the smallest instance with weights drawn from a seed."""
    torch.manual_seed(seed)
    if len(cls.supports) > 1:
        options["spatial_dims"] = dims
    return cls.tiny(**options)


def example(model: Network, batch: int = 1, *, wide: bool = False) -> tuple[Tensor, ...]:
    """Return what forward takes, a noise image of a legal size first, one axis longer where the network allows it."""
    size = model.image_size or tuple(max(step, _SIDE) for step in model.stride)
    if wide and not model.image_size:
        size = (*size[:-1], size[-1] * 2)
    image = torch.randn(batch, model.in_channels, *size, generator=torch.Generator().manual_seed(1))
    return (image, *model.example_inputs(size, batch)[1:])


def declares(cls: type[Network], dims: int) -> None:
    """The class says what it is, and its constructor takes plain values by keyword."""
    _demand(
        isinstance(cls, type) and issubclass(cls, SegmentationModel | NoisePredictor),
        "it must inherit from kanscan.models.base.SegmentationModel (or NoisePredictor)",
    )
    parameters = inspect.signature(cls).parameters
    needed = ["in_channels"] + ["out_channels"] * issubclass(cls, SegmentationModel)
    for name in needed + ["spatial_dims"] * (len(cls.supports) > 1):
        _demand(name in parameters, f"the constructor lacks {name}, which is filled in from the data")
    for name, parameter in parameters.items():
        _demand(
            parameter.default is not parameter.empty and parameter.kind is not parameter.VAR_KEYWORD,
            f"option {name} needs a default: the signature is the configuration",
        )
        _demand(
            _is_plain(parameter.default), f"the default of {name} must be a number, text, bool, None or tuple of those"
        )
    model = tiny(cls, dims)
    for name, kind in (("in_channels", int), ("spatial_dims", int), ("stride", tuple)):
        value = getattr(model, name, None)
        _demand(isinstance(value, kind), f"an instance must have {name} ({kind.__name__}), got {value!r}")
    _demand(model.spatial_dims == dims, f"tiny(spatial_dims={dims}) gave a network of {model.spatial_dims}D images")
    _demand(len(model.stride) == dims, f"stride must have one number for each of {dims} axes, got {model.stride}")


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def gives_logits(cls: type[Network], dims: int) -> None:
    """One tensor of the image's size comes out, whatever the channels and classes."""
    for channels, classes in ((1, 1), (3, 4)):
        options = {"out_channels": classes} if issubclass(cls, SegmentationModel) else {}
        model = tiny(cls, dims, in_channels=channels, **options).eval()
        given = example(model, wide=True)
        wanted = (1, classes if options else channels, *given[0].shape[2:])
        with torch.no_grad():
            logits = model(*given)
            _demand(isinstance(logits, Tensor), f"forward must give one tensor, got a {type(logits).__name__}")
            _demand(tuple(logits.shape) == wanted, f"forward must give {wanted}, got {tuple(logits.shape)}")
            _demand(bool(logits.isfinite().all()), "fresh weights give logits that are not finite")
            if isinstance(model, SegmentationModel):
                first = model.side_outputs(*given)[0]
                _demand(
                    tuple(first.shape) == wanted, f"side_outputs must begin with {wanted}, got {tuple(first.shape)}"
                )


def refuses_wrong_inputs(cls: type[Network], dims: int) -> None:
    """Images it cannot take are refused in a sentence that names what would be right: call `self.check_input(x)`."""
    model = tiny(cls, dims).eval()
    image, *rest = example(model)
    _demand_refusal(model, (torch.cat([image, image], dim=1), *rest), "channels", "twice as many channels")
    _demand_refusal(model, (image[0], *rest), "shape", "an image without a batch axis")
    if max(model.stride) > 1:
        size = list(image.shape[2:])
        axis = max(range(dims), key=lambda a: model.stride[a])
        size[axis] += 1
        legal = size[axis] - 1 + model.stride[axis]
        wrong = torch.zeros(1, model.in_channels, *size)
        _demand_refusal(
            model, (wrong, *rest), str(legal), f"a side of {size[axis]}, no multiple of {model.stride[axis]}"
        )


def _demand_refusal(model: Network, given: tuple[Tensor, ...], word: str, what: str) -> None:
    try:
        with torch.no_grad():
            model(*given)
    except ValueError as error:
        _demand(word in str(error), f"{what} is refused without naming {word!r}: {error}; call self.check_input(x)")
    except Exception as error:
        raise NotKept(
            f"{what} ends in {type(error).__name__} instead of a ValueError; call self.check_input(x)"
        ) from error
    else:
        raise NotKept(f"{what} is not refused; call self.check_input(x) in forward")


def trains_every_parameter(cls: type[Network], dims: int) -> None:
    """Every parameter gets a finite gradient, those named in `unused_parameters` excepted."""
    model = tiny(cls, dims).train()
    given = example(model, 2, wide=True)
    outputs = model.side_outputs(*given) if isinstance(model, SegmentationModel) else [model(*given)]
    torch.stack([torch.tanh(output).square().mean() for output in outputs]).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            _demand(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite")
        elif parameter.requires_grad:
            is_known = any(re.search(pattern, name) for pattern in model.unused_parameters)
            _demand(is_known, f"{name} gets no gradient; use it, or name it in unused_parameters")


def survives_a_file(cls: type[Network], dims: int) -> None:
    """Weights saved and loaded again give the same logits."""
    from safetensors.torch import load_file, save_file

    model, other = tiny(cls, dims).eval(), tiny(cls, dims, seed=9).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "weights.safetensors"
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
        other.load_state_dict(load_file(path))
        given = example(model)
        _demand(
            torch.equal(model(*given), other(*given)),
            "the same weights give other logits: something is kept outside of them",
        )


def bears_16_bits(cls: type[Network], dims: int) -> None:
    """Mixed precision gives nearly the same logits."""
    model = tiny(cls, dims).eval()
    given = example(model)
    with torch.no_grad():
        exact = model(*given)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(*given)
    away = float((rough.float() - exact).norm() / exact.norm().clamp(min=1e-2))
    _demand(away <= 0.1, f"in bf16 the logits are {away:.0%} away from float32")


def exports(cls: type[Network], dims: int) -> None:
    """torch.export takes it whole."""
    model = tiny(cls, dims).eval()
    given = example(model)
    program = torch.export.export(model, given, strict=False)
    with torch.no_grad():
        away = float((program.module()(*given) - model(*given)).abs().max())
    _demand(away < 1e-2, f"the exported network gives logits that are {away:g} away")


def builds_its_presets(cls: type[Network], dims: int) -> None:
    """Every preset is a set of constructor options."""
    for preset, options in cls.presets.items():
        with torch.device("meta"):
            try:
                cls(**options)
            except (TypeError, ValueError) as error:
                raise NotKept(f"preset {preset} does not build: {error}") from error


def keeps_released_names(cls: type[Network], dims: int) -> None:
    """Names in the released code and ours turn into one another."""
    model = tiny(cls, dims)
    ours = model.state_dict()
    back = model.from_released(model.to_released(ours))
    for name, value in ours.items():
        _demand(name in back and torch.equal(back[name], value), f"released_names lose {name}")


#: Promise -> what checks it; each raises where it is not kept.
CHECKS: dict[str, Callable[[type[Network], int], None]] = {
    "declares": declares,
    "gives_logits": gives_logits,
    "refuses_wrong_inputs": refuses_wrong_inputs,
    "trains_every_parameter": trains_every_parameter,
    "survives_a_file": survives_a_file,
    "bears_16_bits": bears_16_bits,
    "builds_its_presets": builds_its_presets,
    "keeps_released_names": keeps_released_names,
    "exports": exports,
}
