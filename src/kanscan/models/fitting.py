"""A network's options, completed by what the data and the recipe already say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kanscan.metrics.logits import legal_size
from kanscan.metrics.logits import num_classes as classes_of
from kanscan.models.base import Network, SegmentationModel


def check_option_type(name: str, cls: type[Network], option: str, value: object) -> None:
    """Refuse a value of another kind than the constructor's annotation says.

    Args:
        name: Of the network, for the sentence.
        cls: Its class.
        option: A keyword of its constructor.
        value: With tuples in place of lists.

    Raises:
        ValueError: The value is of another kind.
    """
    wanted = get_type_hints(cls.__init__).get(option)
    if wanted is None:
        return
    try:
        TypeAdapter(wanted, config=ConfigDict(strict=True, arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        text = inspect.formatannotation(wanted)
        raise ValueError(f"model.options.{option} of {name} must be {text}, got {value!r}: {_what(error)}") from None


def _what(error: ValidationError) -> str:
    first = error.errors()[0]
    return (
        f"{first['msg']} (item {first['loc'][-1]})"
        if first["loc"] and isinstance(first["loc"][-1], int)
        else first["msg"]
    )


def complete_options(
    cls: type[Network],
    chosen: Mapping[str, Any],
    *,
    channels: int,
    num_classes: int,
    image_size: tuple[int, ...] | None = None,
    deep_supervision: bool = False,
    spatial_dims: int = 2,
    stages: tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]] | None = None,
) -> dict[str, Any]:
    """Resolve every constructor option of a segmentation network: what was chosen, what follows, the defaults.

    Args:
        cls: The network's class.
        chosen: Options of the user; they win where they do not contradict the data.
        channels: Channels of the pictures after preprocessing.
        num_classes: Classes of the data, background included; two classes take one logit.
        image_size: Size all pictures are brought to, for networks that must know it.
        deep_supervision: Whether heads at the coarser scales will be trained, for networks that have them.
        spatial_dims: 3 for volumes.
        stages: Planned strides and kernel sizes, for networks that can be told.

    Raises:
        ValueError: The network does not segment, is not made for images of so many axes, or its channels contradict the
            data.
    """
    if not issubclass(cls, SegmentationModel):
        raise ValueError(f"{cls.__name__} is no segmentation network; `kanscan show models` lists those that are")
    if spatial_dims not in cls.supports:
        raise ValueError(
            f"{cls.__name__} takes {' or '.join(f'{n}D' for n in cls.supports)} images and the data are "
            + ("volumes; train it on their slices with volume.slices=true" if spatial_dims == 3 else "pictures")
            + ", or choose another network (`kanscan show models`)"
        )
    signature = inspect.signature(cls)
    follows: dict[str, Any] = {"in_channels": channels, "out_channels": 1 if num_classes == 2 else num_classes}
    follows |= {"deep_supervision": deep_supervision} | ({"image_size": image_size} if image_size else {})
    if spatial_dims != 2:
        follows["spatial_dims"] = spatial_dims
    if stages is not None and "strides" in signature.parameters and "strides" not in chosen:
        follows |= _planned_stages(stages, chosen.get("channels"))
    options = {key: value for key, value in follows.items() if key in signature.parameters} | dict(chosen)
    if options["in_channels"] != channels:
        raise ValueError(
            f"model.options.in_channels={options['in_channels']}, but the pictures have {channels} channels; "
            f"leave it out, or set data.channels={options['in_channels']} if that is 1 or 3"
        )
    if classes_of(options["out_channels"]) != num_classes:
        raise ValueError(
            f"model.options.out_channels={options['out_channels']}, but the data has {num_classes} classes, background "
            "included; leave it out"
        )
    bound = signature.bind(**options)
    bound.apply_defaults()
    return dict(bound.arguments)


def _planned_stages(stages: tuple[Any, Any], channels: object) -> dict[str, Any]:
    """Cut the planned stages to the widths that were chosen, or say that there are too many of those."""
    strides, kernels = stages
    count = len(channels) if isinstance(channels, list | tuple) else len(strides)
    if count > len(strides):
        raise ValueError(
            f"model.options.channels names {count} stages, the patch has room for {len(strides)}; leave some out, or "
            "set volume.patch_size"
        )
    return {"strides": strides[:count], "kernel_sizes": kernels[:count]}


def check_fit(
    model: SegmentationModel, image_size: tuple[int, ...] | None, deep_supervision: bool, spatial_dims: int = 2
) -> None:
    """Refuse a network that cannot take the pictures.

    Args:
        model: The network.
        image_size: Size all pictures are brought to; None: their own, padded.
        deep_supervision: Whether side outputs will be trained.
        spatial_dims: 3 for volumes.

    Raises:
        ValueError: Dimensions, size or side outputs do not fit.
    """
    name = type(model).__name__
    if model.spatial_dims != spatial_dims:
        kind = "pictures" if spatial_dims == 2 else "volumes"
        raise ValueError(f"the data are {kind}, but this {name} was built for {model.spatial_dims}D images")
    if image_size is not None and (legal := legal_size(image_size, model.stride)) != tuple(image_size):
        raise ValueError(
            f"data.image_size={list(image_size)} does not suit {name}, whose sizes are multiples of "
            f"{' x '.join(map(str, model.stride))}; the next legal size is {list(legal)}"
        )
    if deep_supervision and type(model).side_outputs is SegmentationModel.side_outputs:
        raise ValueError(f"{name} has no side outputs: loss.deep_supervision=true would have no effect")
