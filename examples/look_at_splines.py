"""What a KAN layer computes: one learned curve on every edge, summed over the inputs.

A layer with two inputs and one output learns y = sin(3 x0) + x1^2 from samples. Since a curve on each input is all that
this takes, one layer suffices, and its two curves can be looked at. Writes splines.png.

Run it: python examples/look_at_splines.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from kanscan.layers.kan import KANLinear
from kanscan.ops.bspline import bspline_basis


def truth(x: Tensor) -> Tensor:
    """Return what is to be learned of inputs (n, 2), as (n, 1)."""
    return torch.sin(3 * x[:, :1]) + x[:, 1:] ** 2


def edges(layer: KANLinear, x: Tensor) -> Tensor:
    """Return what each edge contributes, (n, outputs, inputs): w SiLU(x) + s sum_m c_m B_m(x), U-KAN Eq. 2-4."""
    bases = bspline_basis(x, *layer.grid)
    spline = torch.einsum("nim,oim->noi", bases, layer.spline_weight)
    if layer.spline_scaler is not None:
        spline = layer.spline_scaler * spline
    return layer.base_weight * F.silu(x)[:, None, :] + spline


def learn(steps: int = 500, seed: int = 0) -> KANLinear:
    """Fit one layer to the truth on random points of the grid's range."""
    torch.manual_seed(seed)
    layer = KANLinear(2, 1, grid_size=8)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    for _ in range(steps):
        x = 2 * torch.rand(256, 2) - 1
        loss = F.mse_loss(layer(x), truth(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return layer


@torch.no_grad()
def draw(layer: KANLinear, path: Path) -> None:
    """Draw both curves beside what they should be."""
    x = torch.linspace(-1, 1, 201)
    learned = edges(layer, torch.stack([x, x], dim=1))[:, 0]
    wanted = torch.stack([torch.sin(3 * x), x**2], dim=1)
    # A sum leaves open which curve holds the constant, so means are removed.
    figure = Figure(figsize=(8, 3), layout="constrained")
    for index, axes in enumerate(figure.subplots(1, 2)):
        for curves, color, width, name in ((wanted, "0.8", 5, "wanted"), (learned, "C0", 1.5, "learned")):
            axes.plot(x, curves[:, index] - curves[:, index].mean(), color=color, linewidth=width, label=name)
        axes.set(xlabel=f"x{index}", title=f"edge from input {index}")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(folder: Path) -> float:
    """Learn, check the formula, draw; return the remaining error."""
    layer = learn()
    x = 2 * torch.rand(1000, 2) - 1
    with torch.no_grad():
        difference = (edges(layer, x).sum(-1) - layer(x)).abs().max().item()
        error = F.mse_loss(layer(x), truth(x)).sqrt().item()
    print(f"edges summed by hand and the layer differ by at most {difference:.1e}")
    print(f"root mean square error after training: {error:.4f}")
    folder.mkdir(parents=True, exist_ok=True)
    draw(layer, folder / "splines.png")
    print(f"curves: {folder / 'splines.png'}")
    return error


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
