"""The compiled kernels: where they are, why they are absent, how they are called.

They are one shared library with a C interface, built when the package is installed and loaded on first use. It is
compiled for several instruction sets; the best that this processor has is taken. `KANSCAN_KERNELS=none` in the
environment leaves it unloaded, `base`, `avx2` or `avx512` asks for one instruction set.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LIBRARY = Path(__file__).with_name("_native.so")
#: Instruction sets and the numbers in one of their vectors, best last.
LANES = {"base": 4, "avx2": 8, "avx512": 16}
#: What the library has to answer to fit this file: the interface is changed together with this number.
INTERFACE = 7
VARIABLE = "KANSCAN_KERNELS"


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    entry = _team_of_torch()
    if entry is not None:
        library.kanscan_use_team(entry)
    return library


def _team_of_torch() -> ctypes.c_void_p | None:
    """Find the entry into the OpenMP runtime that torch has loaded, so that the kernels run on torch's own threads.

    A second runtime would bring a second set of threads, which wait in a busy loop while the others work. Where none is
    found the kernels start threads of their own.
    """
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    files = {line.split(maxsplit=5)[5] for line in mapped.splitlines() if line.count("/")}
    runtimes = [f for f in files if any(name in Path(f).name for name in ("libgomp", "libiomp5", "libomp"))]
    home = str(Path(torch.__file__).parent.parent)
    for runtime in sorted(runtimes, key=lambda f: not f.startswith(home)):
        try:
            return ctypes.cast(ctypes.CDLL(runtime).GOMP_parallel, ctypes.c_void_p)
        except (OSError, AttributeError):
            continue
    return None


def usable_instruction_sets() -> list[str]:
    """List the instruction sets that are compiled in and that this processor has, best last; none without a library."""
    if not LIBRARY.is_file():
        return []
    try:
        library = _library()
        if library.kanscan_interface() != INTERFACE:
            return []
    except (OSError, AttributeError):
        return []
    best = library.kanscan_instruction_set()
    return [name for name in list(LANES)[: best + 1] if hasattr(library, f"kanscan_kan_forward_{name}")]


def _absence(wanted: str) -> str | None:
    if wanted == "none":
        return f"the environment says {VARIABLE}=none"
    if not LIBRARY.is_file():
        return "they were not built when kanscan was installed; with GCC or Clang at hand, install it again"
    here = usable_instruction_sets()
    if not here:
        return f"the library {LIBRARY.name} does not load or belongs to another version; install kanscan again"
    if wanted and wanted not in here:
        return f"the environment says {VARIABLE}={wanted}, but here are {', '.join(here)}"
    return None


# Settled at import, not on first use: a graph that is being traced can read a constant but not look for a file.
#: Why the compiled kernels cannot be used here, or None if they can.
ABSENCE = _absence(os.environ.get(VARIABLE, ""))
#: The instruction set that is used; empty where the kernels are absent.
INSTRUCTION_SET = "" if ABSENCE else os.environ.get(VARIABLE) or usable_instruction_sets()[-1]

#: Numbers that a thread keeps between calls at most (32 MiB).
SCRATCH_NUMBERS = 2**23
_scratch = threading.local()


def scratch(shape: Sequence[int], slot: int = 0) -> Tensor:
    """Return float32 memory for a result that is used up before the call of an op ends; it is not cleared.

    Each thread is handed the same memory again: common allocators return large blocks to the system, and faulting them
    in again costs more than the arithmetic done on them. Results that live at once take different slots.
    """
    count = math.prod(shape)
    if count > SCRATCH_NUMBERS:
        large = torch.empty(shape, dtype=torch.float32, device="cpu")
        settle(large)
        return large
    name = f"slot{slot}"
    memory: Tensor | None = getattr(_scratch, name, None)
    if memory is None or memory.numel() < count:
        with torch.inference_mode(False):
            memory = torch.empty(count, dtype=torch.float32, device="cpu")
        setattr(_scratch, name, memory)
    return memory[:count].view(shape)


#: Blocks of this size are mapped anew at every allocation by the common C library (glibc: its largest threshold).
MAPPED_BYTES = 32 * 2**20
_MADV_HUGEPAGE = 14
_PAGE = 4096


def settle(*tensors: Tensor) -> None:
    """Ask the system to back large results by large pages before they are written for the first time.

    A fresh block of 50 MiB is faulted in 4 KiB at a time, which costs more than a memory-bound kernel itself. Where the
    system knows no large pages nothing happens.
    """
    for t in tensors:
        size = t.untyped_storage().nbytes()
        if size >= MAPPED_BYTES and _advise is not None:
            begin = -(-t.untyped_storage().data_ptr() // _PAGE) * _PAGE
            end = (t.untyped_storage().data_ptr() + size) // _PAGE * _PAGE
            _advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_HUGEPAGE)


def _find_advise() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None


_advise = _find_advise()


def absence() -> str | None:
    """Tell why the compiled kernels cannot be used here, or None if they can."""
    return ABSENCE


def refusal(*tensors: Tensor, devices: Sequence[str] = ("cpu",)) -> str | None:
    """Return why the kernels cannot compute on these tensors, the input first, or None if they can."""
    if ABSENCE is not None:
        return f"the compiled kernels are absent: {ABSENCE}"
    if tensors[0].device.type not in devices:
        return f"the kernel computes on the processor, and the input is on {tensors[0].device.type}"
    if any(t.dtype == torch.float64 for t in tensors):
        return "the kernel computes in float32, and float64 was asked for"
    return None


_functions: dict[tuple[str, str], Any] = {}
_C_TYPES: dict[type, Any] = {int: ctypes.c_int64, bool: ctypes.c_int64, float: ctypes.c_float}


def integers(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    """Return an array of 64-bit integers for `call`."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def call(name: str, *arguments: Tensor | ctypes.Array[ctypes.c_int64] | int | float | None) -> None:
    """Run a kernel in the chosen instruction set.

    Args:
        name: Its name without the instruction set, such as "kan_forward".
        arguments: In the order of the C interface. Tensors and arrays are passed as the address of their first
            element, None as a null pointer, integers as 64 bits, numbers as float32; an argument keeps its kind from
            call to call. The number of threads, a last 64-bit integer, is appended: it follows torch.
    """
    function = _functions.get((name, INSTRUCTION_SET)) or _bind(name, arguments)
    function(*[a.data_ptr() if isinstance(a, Tensor) else a for a in arguments], torch.get_num_threads())


def _bind(name: str, arguments: Sequence[Tensor | ctypes.Array[ctypes.c_int64] | int | float | None]) -> Any:
    # A function object of its own: the library hands out the same one for every attribute access.
    function = _library()[f"kanscan_{name}_{INSTRUCTION_SET}"]
    function.restype = None
    function.argtypes = [*(_C_TYPES.get(type(a), ctypes.c_void_p) for a in arguments), ctypes.c_int64]
    _functions[name, INSTRUCTION_SET] = function
    return function
