"""A piece of work: one of our own functions with plain arguments, tried wherever an engine runs it."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: What can be asked for -> the function that does it, as module and name. What runs is chosen here and nowhere else:
#: a file or a queue can name a piece of work, never code.
FUNCTIONS: Mapping[str, tuple[str, str]] = {
    "cell": ("kanscan.workflows.study.cell", "work_on"),
}


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        name: Distinct; names the log.
        what: A key of `FUNCTIONS`.
        arguments: Plain values, as JSON holds them.
    """

    name: str
    what: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write it down for another process."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Ended:
    """How a piece of work ended.

    Attributes:
        work: The work.
        sentence: Why it failed; "" where it went well.
        value: What the function returned, plain values.
        is_final: Trying again would end alike: the recipe or the data are wrong.
    """

    work: Work
    sentence: str = ""
    value: Any = None
    is_final: bool = False


def attempt(work: Work) -> Ended:
    """Do the work here and now; what goes wrong becomes a sentence.

    Raises:
        Interrupted: A signal asked to stop.
    """
    from kanscan.training.stopping import Interrupted

    module, name = FUNCTIONS[work.what]
    try:
        return Ended(work, value=getattr(importlib.import_module(module), name)(**work.arguments))
    except Interrupted:
        raise
    except Exception as error:
        is_users = isinstance(error, ValueError | OSError)
        if not is_users:
            traceback.print_exc()  # for the log: a failure of ours needs its place
        text = " ".join(str(error).split()) or type(error).__name__
        return Ended(
            work, text if is_users else f"{type(error).__name__}: {text}", is_final=isinstance(error, ValueError)
        )


def serve(order: Path, answer: Path) -> None:
    """Do what a file orders, and write how it ended into another."""
    from kanscan.files import write_json

    content = json.loads(order.read_text(encoding="utf-8"))
    ended = attempt(Work(content["name"], content["what"], content["arguments"]))
    write_json(answer, {"sentence": ended.sentence, "value": ended.value, "is_final": ended.is_final})


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
