"""nnU-Net's plan file, `nnUNetPlans.json`: ours written as it writes it, its own read (both generations)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanscan.data.volumes.fingerprint import STATISTICS, Fingerprint
from kanscan.data.volumes.plan import VolumePlan

_SCHEMES = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "none": "NoNormalization",
    "minmax": "RescaleTo01Normalization",
}
_WIDEST = {2: 512, 3: 320}
_PLAIN_UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def nnunet_plans(plan: VolumePlan, fingerprint: Fingerprint, name: str = "kanscan") -> dict[str, Any]:
    """Write a plan as nnU-Net 2.3.1 and later do, with its plain U-Net as the network.

    Args:
        plan: Ours; axes D, H, W are not transposed.
        fingerprint: What it was made of.
        name: Of the data set.
    """
    dims = plan.spatial_dims
    key = "3d_fullres" if dims == 3 else "2d"
    axes = [axis for axis in range(3) if axis != plan.slice_axis]
    stages = len(plan.strides)
    architecture = {
        "network_class_name": _PLAIN_UNET,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(32 * 2**stage, _WIDEST[dims]) for stage in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [list(k) for k in plan.kernel_sizes],
            "strides": [list(s) for s in plan.strides],
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    resampling: dict[str, Any] = {}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        options = {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        resampling[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{what}_kwargs"] = options
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(plan.spacing_mm),
        "original_median_shape_after_transp": list(plan.median_size),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            key: {
                "data_identifier": f"nnUNetPlans_{key}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": plan.batch_size,
                "patch_size": list(plan.network_size),
                "median_image_size_in_voxels": [float(plan.median_size[a]) for a in axes],
                "spacing": [plan.spacing_mm[a] for a in axes],
                "normalization_schemes": [_SCHEMES[s] for s in plan.normalization],
                "use_mask_for_norm": [plan.nonzero_only] * plan.channels,
                **resampling,
                "architecture": architecture,
                "batch_dice": dims == 2,
            }
        },
        "experiment_planner_used": "kanscan",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": fingerprint.to_nnunet()[
            "foreground_intensity_properties_per_channel"
        ],
    }


def read_nnunet_plans(content: Mapping[str, Any], configuration: str = "3d_fullres") -> VolumePlan:
    """Read a plan that nnU-Net made.

    Args:
        content: Of `nnUNetPlans.json`, of version 2.2.1 or before, or of 2.3.1 or later.
        configuration: "3d_fullres", "3d_lowres" or "2d".

    Raises:
        ValueError: It has no such configuration, lacks a key, or turns the axes.
    """
    known = content.get("configurations", {})
    if configuration not in known:
        raise ValueError(f"the plans have no configuration {configuration!r}; they have {', '.join(known) or 'none'}")
    chosen = known[configuration]
    for _ in known:  # a configuration may build on another, and that on a third
        parent = known.get(chosen.get("inherits_from"), {})
        chosen = {**parent, **chosen, "inherits_from": parent.get("inherits_from")}
    if list(content.get("transpose_forward", [0, 1, 2])) != [0, 1, 2]:
        raise ValueError(f"the plans turn the axes ({content['transpose_forward']}), which is not supported")
    architecture = chosen.get("architecture", {}).get("arch_kwargs", {})
    try:
        strides = architecture.get("strides") or chosen["pool_op_kernel_sizes"]
        kernels = architecture.get("kernel_sizes") or chosen["conv_kernel_sizes"]
        intensities = content.get("foreground_intensity_properties_per_channel") or content.get(
            "foreground_intensity_properties_by_modality", {}
        )
        spacing, patch, size = (chosen[k] for k in ("spacing", "patch_size", "median_image_size_in_voxels"))
        flat = len(patch) == 2
        back = {scheme: ours for ours, scheme in _SCHEMES.items()}
        first = content["original_median_spacing_after_transp"][0] if flat else None
        return VolumePlan(
            spacing_mm=tuple(float(s) for s in ([first] if flat else []) + list(spacing)),  # type: ignore[arg-type]
            median_size=tuple(round(n) for n in ([1] if flat else []) + list(size)),
            patch_size=tuple(([1] if flat else []) + list(patch)),
            strides=tuple(tuple(s) for s in strides),
            kernel_sizes=tuple(tuple(k) for k in kernels),
            batch_size=int(chosen["batch_size"]),
            normalization=tuple(back[s] for s in chosen["normalization_schemes"]),
            intensities=tuple({name: float(one[name]) for name in STATISTICS} for one in intensities.values()),
            nonzero_only=any(chosen["use_mask_for_norm"]),
            slice_axis=0 if flat else None,
            reasons=dict.fromkeys(
                ("spacing_mm", "median_size", "patch_size", "strides", "kernel_sizes", "batch_size", "normalization"),
                f"from nnU-Net's plan {configuration}",
            ),
        )
    except KeyError as error:
        raise ValueError(f"the plans have no {error}; expected nnU-Net's nnUNetPlans.json of version 2") from None
