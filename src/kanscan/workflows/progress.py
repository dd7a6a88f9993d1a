"""What a user sees and is spared while many cases are worked on: bars, sentences, outputs that can be written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from kanscan.data.case import Case
from kanscan.files import NoRoomError, free_mib, printable

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """A case that could not be worked on.

    Attributes:
        case: Its id.
        sentence: Why, with the file.
    """

    case: str
    sentence: str


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What became of many cases.

    Attributes:
        results: Of the cases that went well, in their order.
        failures: The others.
    """

    results: tuple[Result, ...]
    failures: tuple[Failure, ...]


def work_through(cases: Sequence[Case], work: Callable[[Case], Result], words: str) -> Done[Result]:
    """Do the same with every case; one that fails is told and the others go on.

    Args:
        cases: The cases.
        work: What is done. Whatever it raises is that case's failure: codecs written in other languages raise what is
            no `Exception`.
        words: Said beside the progress bar, such as "predicting".

    Raises:
        NoRoomError: The disk is full or read-only, which concerns all cases.
    """
    results: list[Result] = []
    failures: list[Failure] = []
    for case in watched(cases, words):
        try:
            results.append(work(case))
        except (KeyboardInterrupt, SystemExit, GeneratorExit, NoRoomError):
            raise
        except BaseException as error:
            failures.append(Failure(case.id, told(error, case)))
    return Done(tuple(results), tuple(failures))


def told(error: BaseException, case: Case) -> str:
    """Say on one line what went wrong, with the file where the error does not name it."""
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError | OSError):
        # What nobody meant for users needs its kind to be understood.
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    files = (*case.images, *case.labels)
    return text if not files or any(str(path) in text for path in files) else f"{files[0]}: {text}"


def watched(items: Iterable[Item], words: str, total: int | None = None) -> Iterator[Item]:
    """Go through items with a progress bar, where there is a terminal and more than one item."""
    from rich.console import Console
    from rich.progress import track

    if total is None:
        items = list(items)
        total = len(items)
    console = Console(stderr=True)
    yield from track(items, words, total, console=console, transient=True, disable=total < 2 or not console.is_terminal)


def say(text: str) -> None:
    """Tell the user something beside the result."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(printable(text), markup=False)


def demand_output(folder: Path, what: str, needed_mib: float = 16) -> None:
    """Refuse a folder that cannot be written to, before anything is computed.

    Args:
        folder: Made later, with the folders above it.
        what: What it is for, such as "the report".
        needed_mib: Space that will be taken, at least.

    Raises:
        NoRoomError: The disk has less room.
        NotADirectoryError: It is a file, or lies below one.
        PermissionError: It cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder for {what}")
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file; {folder} cannot be made below it")
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"cannot write to {existing}; choose another --output")
    free = free_mib(folder)
    if free < needed_mib:
        raise NoRoomError(
            f"{folder} lies on a disk with {free:,.0f} MiB left, {what} needs {needed_mib:,.0f} MiB at least; make "
            "room or choose another --output"
        )


def peak_memory_mib() -> float:
    """Return the most memory this process has held, NaN where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)
