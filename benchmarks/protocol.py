"""How speed is measured here: candidates take turns in one process, one thread, processor time, medians."""

from __future__ import annotations

import csv
import ctypes
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kanscan.ops import native

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = ("work", "candidate", "ratio_to_floor", "floor", "median_ms", "min_ms", "max_ms")
MEASURED = [f"src/kanscan/{floor}" for floor in ("ops", "layers", "models")] + ["benchmarks/*.py", "setup.py"]
#: Tests of the scan that must be green before its speed, or that of a network made of it, is printed.
SCAN_TESTS = [f"tests/ops/test_{name}.py" for name in ("selective_scan", "native_selective_scan", "accuracy_of_scans")]


def demand_green(*tests: str) -> None:
    """Refuse to print a speed while the tests of the op are red."""
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"not timed, since tests are red:\n{run.stdout[-2000:]}")


#: Keeps freed blocks instead of handing them back: the page faults of large temporaries disappear.
TUNED = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "67108864"}


def allocator() -> str:
    """Name the setting of the C library's allocator this process was started with."""
    return "tuned allocator" if os.environ.get("MALLOC_TRIM_THRESHOLD_") == TUNED["MALLOC_TRIM_THRESHOLD_"] else ""


def again_with_tuned_allocator() -> None:
    """Start the running benchmark once more with the other setting of the allocator."""
    subprocess.run([sys.executable, *sys.argv], env={**os.environ, **TUNED}, check=True)


def begin(*names: str) -> None:
    """Remove the tables of an earlier run, unless this is the second run with the tuned allocator."""
    for name in names:
        if not allocator():
            (RESULTS / f"{name}.csv").unlink(missing_ok=True)


def interleave(
    candidates: dict[str, Callable[[], object]], rounds: int | dict[str, int] = 9
) -> dict[str, tuple[float, float, float]]:
    """Return name -> (median, smallest, largest) processor seconds; the order rotates from round to round.

    A slow candidate may take part in fewer rounds than others: `rounds` then has a number for each, and those of the
    slow one lie evenly between the others'.
    """
    names = list(candidates)
    wanted = rounds if isinstance(rounds, dict) else dict.fromkeys(names, rounds)
    total = max(wanted.values(), default=0)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        candidates[name]()
    for turn in range(total):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if (turn + 1) * wanted[name] // total == turn * wanted[name] // total:
                continue
            start = time.process_time()
            candidates[name]()
            seconds[name].append(time.process_time() - start)
    return {name: (statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def peak_mib(run: Callable[[], object]) -> float:
    """Return by how much the resident memory of a forked process grows at most while it runs `run` (Linux only)."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, str(own_peak_mib(run)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        grown = answer.read()
    os.wait()
    return float(grown)


def own_peak_mib(run: Callable[[], object]) -> float:
    """Return by how much the resident memory of this process grows at most while it runs `run` (Linux only).

    For a process that does nothing else. A forked one must map the libraries again, a dozen MiB that are not the run's.
    """
    # What was freed before goes back to the system, or the run would be given it without growing.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def processor() -> str:
    """Return the processor's name, nothing else about the machine."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Return the short commit, marked if what is measured, or measures, has changes."""
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *MEASURED], cwd=ROOT).returncode
    return (run.stdout.strip() or "unknown") + ("-dirty" if changed else "")


def facts() -> dict[str, object]:
    """Return what every row ends in: where, with what, and at which commit it was measured."""
    return {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "kernels": native.INSTRUCTION_SET or "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
    }


def record(name: str, work: str, results: dict[str, tuple[float, float, float]], floor: str) -> None:
    """Print medians as ratios to `floor` and append them to `results/<name>.csv`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    fresh = not path.exists()
    base = results[floor][0]
    work = ", ".join(filter(None, (work, allocator())))
    with path.open("a", newline="") as file:
        table = csv.writer(file)
        if fresh:
            table.writerow([*COLUMNS, *facts()])
        print(f"{work} (floor: {floor}, {base * 1e3:.1f} ms)")
        for candidate, (median, low, high) in results.items():
            print(f"  {candidate:32s} {median / base:7.2f} x   {median * 1e3:9.2f} ms")
            times = [f"{value * 1e3:.3f}" for value in (median, low, high)]
            table.writerow([work, candidate, f"{median / base:.3f}", floor, *times, *facts().values()])
