"""Draw README's table of speeds and its figure from the tables in `results`.

`python benchmarks/draw.py` writes them; nothing is measured here.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = ROOT / "docs" / "pictures" / "performance.svg"
START, END = "<!-- performance: drawn by benchmarks/draw.py -->\n", "<!-- end of performance -->"
ALLOCATORS = ("", ", tuned allocator")


class Line(NamedTuple):
    """One line of the table: which rows of which results it is drawn from."""

    label: str
    against: str
    table: str
    work: str
    ours: str
    other: str
    memory: str = ""


def kan(size: str, way: str) -> Line:
    tokens, widths = size.split(" tokens, ")
    work = f"KAN linear {tokens}x{widths.replace(' ', '')}, {way}"
    other = ("product" if way == "forward" else "three products") + " of given columns"
    label = f"KAN layer, {size}, {way}"
    return Line(label, "the dense matrix products alone", "kan_linear", work, "kanscan cpu", other)


def kaonv(batch: int) -> Line:
    work = f"KAonv 3x3 {batch}x64x128x128->64, forward + backward"
    label = f"KAonv 3 x 3, {batch} x 64 x 128 x 128, forward + backward"
    return Line(label, "a plain convolution", "ka_conv", work, "kanscan cpu", "plain convolution", "ka_conv_memory")


def scan(way: str) -> Line:
    work = f"selective scan B1 E192 L4096 N16, {way}"
    label = f"Selective scan, 192 channels, 4096 steps, 16 states, {way}"
    return Line(label, "log-depth scan in torch", "selective_scan", work, "kanscan cpu", "log-depth torch")


def twin(network: str, batch: int) -> Line:
    work = f"training step, 256 x 256, batch {batch}"
    label = f"{network}, training step, {batch} x 256 x 256"
    return Line(label, "its linear twin", "twins", work, network, "linear twin", "twins")


def network(name: str, title: str) -> Line:
    work = f"training step, 256 x 256, batch 1, {name}"
    label = f"{title}, training step, 1 x 256 x 256"
    return Line(label, "the same on the torch scan", "networks", work, "cpu", "torch", "networks")


LAST = ", channels last"
DIRECTIONS = "four directions 64x64 E96 N16, forward + backward"
COPIES = "permuted copies, log-depth"
LINES = (
    kan("4096 tokens, 256 -> 256", "forward"),
    kan("4096 tokens, 256 -> 256", "forward + backward"),
    kan("2048 tokens, 320 -> 320", "forward"),
    kan("2048 tokens, 320 -> 320", "forward + backward"),
    kan("4096 tokens, 256 -> 256", "forward + backward")._replace(
        against="the usual dense Cox-de Boor recursion", other="dense Cox-de Boor"
    ),
    kaonv(2),
    kaonv(8),
    twin("U-KAN", 1),
    twin("U-KAN", 8),
    twin("ALL U-KAN", 1),
    twin("ALL U-KAN", 8),
    *(
        twin(f"{network}{LAST}", batch)._replace(against=f"its linear twin{LAST}", other=f"linear twin{LAST}")
        for network in ("U-KAN", "ALL U-KAN")
        for batch in (1, 8)
    ),
    Line(
        *("U-KAN, prediction, torch.compile", "its linear twin, eager", "inference", "prediction, 256 x 256, batch 1"),
        *("U-KAN, compiled", "linear twin"),
    ),
    scan("forward"),
    scan("forward + backward"),
    Line(
        "Four directions over 64 x 64, 96 channels, forward + backward",
        *("copies and log-depth scan", "selective_scan", DIRECTIONS, "kanscan cpu", COPIES, "selective_scan_memory"),
    ),
    network("km_unet", "KM-UNet"),
    network("vm_unet", "VM-UNet"),
    network("vmkla_unet", "VMKLA-UNet"),
)


@cache
def results(table: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return (work, candidate) -> row of one table."""
    with (RESULTS / f"{table}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if table == "networks":
        # Two keys name a row there: work and network together are the work.
        for row in rows:
            head, *tail = row["work"].partition(", tuned")
            row["work"] = f"{head}, {row['network']}" + "".join(tail)
    key = next(name for name in ("scan", "candidate", "network") if name in rows[0])
    return {(row["work"], row[key]): row for row in rows}


def ratio(table: str, work: str, ours: str, other: str, quantity: str) -> float | None:
    """Return ours over the other, or None where one was not measured."""
    rows = results(table)
    if (work, ours) not in rows or (work, other) not in rows:
        return None
    values = [float(rows[work, name][quantity]) for name in (ours, other)]
    return values[0] / values[1]


def times(line: Line) -> list[float]:
    """Return the ratios of times under either setting of the allocator, where measured."""
    quantity = "median_s" if line.table == "networks" else "median_ms"
    found = (ratio(line.table, line.work + suffix, line.ours, line.other, quantity) for suffix in ALLOCATORS)
    return [value for value in found if value is not None]


def peaks(line: Line) -> list[float]:
    """Return the ratios of memory, as `times`."""
    if not line.memory:
        return []
    if line.memory.endswith("_memory"):
        # With freed blocks kept, what a form takes is there already.
        found = [ratio(line.memory, line.work, line.ours, line.other, "peak_mib")]
    else:
        found = [ratio(line.memory, line.work + s, line.ours, line.other, "step_growth_mib") for s in ALLOCATORS]
    return [value for value in found if value is not None]


def shown(values: Iterable[float]) -> str:
    """Write ratios as a reader says them: 0.61 x, or 1/32 where it is far from one."""
    return " · ".join(f"{v:.2f} x" if v > 0.15 else f"1/{1 / v:.0f}" for v in values) or "-"


def rate(states: int) -> float:
    """Return state updates a second, in billions, of the forward scan over 4096 steps of 192 channels."""
    row = results("selective_scan")[f"selective scan B1 E192 L4096 N{states}, forward", "kanscan cpu"]
    return 192 * 4096 * states / float(row["median_ms"]) / 1e6


def growth(table: str, column: str) -> str:
    """Return what the first row of a table of growth says in a column."""
    with (RESULTS / f"{table}.csv").open(newline="") as file:
        return next(csv.DictReader(file))[column]


def conditions() -> str:
    """Say where the figures come from."""
    rows = [row for table in sorted({line.table for line in LINES}) for row in results(table).values()]
    facts = {name: sorted({row[name] for row in rows}) for name in ("device", "kernels", "threads", "torch", "commit")}
    device, kernels, threads, torch, commits = (", ".join(values) for values in facts.values())
    return (
        f"Medians of processor time with {threads} thread on {device} ({kernels} kernels, torch {torch}). Two figures: "
        "the C library's allocator as it is, and set to keep freed blocks ([how](docs/how-to/speed.md)). Memory is the "
        f"growth of the process. Commits: {commits}. No graphics processor was measured."
    )


def table() -> str:
    """Return what stands between the markers in the README."""
    lines = ["| One thread, float32 | against | time | memory |", "| --- | --- | --- | --- |"]
    lines += [f"| {line.label} | {line.against} | {shown(times(line))} | {shown(peaks(line))} |" for line in LINES]
    slope = growth("selective_scan_growth", "slope")
    sides = growth("lkm_unet_growth", "slopes_of_additions")
    lines += [
        "",
        f"The scan makes {rate(16):.1f} G state updates a second with 16 states and {rate(1):.1f} G with one; its time "
        f"over the length, 512 to 16,384 steps, has the log2 slope {slope}. What a step of LKM-UNet costs more on a "
        f"larger image, 64 to 512 pixels a side, grows with its pixels to the power {' and '.join(sides.split())}.",
        "",
        conditions(),
    ]
    return "\n".join(lines)


def readme(text: str) -> str:
    """Put the table into the README's text."""
    head, rest = text.split(START, 1)
    return f"{head}{START}\n{table()}\n\n{END}{rest.split(END, 1)[1]}"


def figure() -> str:
    """Return an SVG of bars: the time of each line against what it is compared with, on a logarithmic scale."""
    left, unit, step, top = 500, 130.0, 26, 46
    low = min(value for line in LINES for value in times(line))
    first = math.floor(math.log10(low))
    zero = left - first * unit
    width, height = zero + 1.2 * unit, top + step * len(LINES) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width:.0f}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="18" font-weight="bold">Time against what it is compared with (1: as long)</text>',
    ]
    for power in range(first, 1):
        x = zero + power * unit
        parts.append(f'<line x1="{x:.1f}" y1="{top - 8}" x2="{x:.1f}" y2="{height - 8}" stroke="#bbb"/>')
        name = "1" if power == 0 else f"1/{10**-power}"
        parts.append(f'<text x="{x:.1f}" y="{top - 12}" text-anchor="middle" fill="#555">{name}</text>')
    for index, line in enumerate(LINES):
        y = top + step * index
        value = times(line)[0]
        x = zero + math.log10(value) * unit
        # Okabe and Ito's blue where it takes less time, their orange where it takes more.
        color = "#0072b2" if value <= 1 else "#e69f00"
        parts.append(f'<text x="{left - 30}" y="{y + 12}" text-anchor="end">{escape(line.label)}</text>')
        parts.append(
            f'<rect x="{min(x, zero):.1f}" y="{y}" width="{max(abs(x - zero), 1):.1f}" height="16" fill="{color}"/>'
        )
        side = min(x, zero) - 6 if value <= 1 else x + 6
        anchor = "end" if value <= 1 else "start"
        parts.append(f'<text x="{side:.1f}" y="{y + 12}" text-anchor="{anchor}" fill="#333">{shown([value])}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(readme(page.read_text(encoding="utf-8")), encoding="utf-8")
    FIGURE.write_text(figure(), encoding="utf-8")
    print(table())
