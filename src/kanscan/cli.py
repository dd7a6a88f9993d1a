"""The shell's door: the API's own functions are the subcommands; options and help come from their signatures."""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment
    from typer.models import ArgumentInfo, OptionInfo

import kanscan
from kanscan import COMMANDS, __version__
from kanscan.files import NoRoomError, printable, to_json

#: What a user did wrong, as opposed to what we did.
USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    NoRoomError,
)
#: One letter for the options that are typed most.
LETTERS = {"output": "-o", "num_samples": "-n"}


def main() -> None:
    """Run the command line; exit code 0 fine, 1 our failure, 2 wrong usage or data, 130 interrupted."""
    debug = "--debug" in sys.argv or bool(os.environ.get("KANSCAN_DEBUG"))
    arguments = [item for item in sys.argv[1:] if item != "--debug"]
    # Read when torch is loaded. Threads that spin while they wait make a shared machine many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Readers of files say what they dislike in their own words, file contents and patients' names included.
    for name in ("pydicom", "tifffile", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=name)
    try:
        application()(args=arguments, prog_name="kanscan")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"error: {printable(sentence(error))}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        print(
            f"kanscan failed: {type(error).__name__}: {printable(sentence(error))} (add --debug for the traceback)",
            file=sys.stderr,
        )
        sys.exit(1)


def sentence(error: BaseException) -> str:
    """Return the error's text on one line, with the file for errors of the operating system."""
    if isinstance(error, OSError) and error.strerror:
        name = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{name}"
    return " ".join(str(error).split()) or type(error).__name__


def application() -> typer.Typer:
    """Build the typer application from `COMMANDS`."""
    app = typer.Typer(
        name="kanscan",
        help="U-shaped networks of splines and scans for medical images.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def version(
        version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    ) -> None:
        if version:
            print(f"kanscan {__version__}")
            raise typer.Exit

    for name in COMMANDS:
        function = getattr(kanscan, name)
        app.command(name, help=_summary(function))(_command(function))
    return app


def _command(function: Callable[..., Any]) -> Callable[..., None]:
    hints, texts = _argument_types(function), _argument_texts(function)
    parameters = [
        _parameter(parameter, hints[name], texts.get(name, ""))
        for name, parameter in inspect.signature(function).parameters.items()
    ]

    def run(**arguments: object) -> None:
        _show(function(**arguments), as_json=bool(arguments.get("json")))

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _argument_types(function: Callable[..., Any]) -> dict[str, Any]:
    # What a command returns may be declared in a room that takes seconds to load.
    known = {name: kind for name, kind in function.__annotations__.items() if name != "return"}
    return get_type_hints(types.SimpleNamespace(__annotations__=known), function.__globals__)


def _parameter(parameter: inspect.Parameter, kind: object, text: str) -> inspect.Parameter:
    default = parameter.default
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        shown: ArgumentInfo | OptionInfo = typer.Argument(help=text, show_default=False)
    else:
        flag = "--" + parameter.name.replace("_", "-")
        names = [flag if default is False or kind is not bool else f"{flag}/--no-{flag[2:]}"]
        if _optional(kind) is bool:
            names = [flag if default is False else f"{flag}/--no-{flag[2:]}"]
        if parameter.name in LETTERS:
            names.append(LETTERS[parameter.name])
        shown = typer.Option(*names, help=text, show_default=default not in (None, False, ""))
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=parameter.default,
        annotation=Annotated[kind, shown],
    )


def _optional(kind: object) -> object:
    if get_origin(kind) in (Union, types.UnionType):
        inner = [k for k in get_args(kind) if k is not type(None)]
        return inner[0] if len(inner) == 1 else kind
    return kind


def _summary(function: Callable[..., Any]) -> str:
    """Return the docstring up to its first section: what the command is for."""
    text = inspect.getdoc(function) or ""
    return re.split(r"\n\s*(?:Args|Returns|Raises|Example):", text)[0].strip()


def _argument_texts(function: Callable[..., Any]) -> dict[str, str]:
    """Read the `Args:` section of a Google docstring."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.S | re.M)
    if not section:
        return {}
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section[1], re.S | re.M)
    return {name: " ".join(body.split()).replace("`", "") for name, body in entries}


def _show(result: object, *, as_json: bool) -> None:
    if as_json:
        content = result.to_dict() if hasattr(result, "to_dict") else result
        print(to_json(content, default=_plain))
    elif hasattr(result, "__rich__") or hasattr(result, "__rich_console__"):
        from rich.console import Console

        # A pipe has no width; tables must not be folded at 80 columns there.
        console = Console() if sys.stdout.isatty() else Console(width=160)
        console.print(_Printable(result))
    # A command that went through but found something wrong (broken files, unreadable cases) says so in `errors`.
    if getattr(result, "errors", None):
        raise typer.Exit(2)


class _Printable:
    """A result whose text can do nothing to the terminal, whatever names it holds."""

    def __init__(self, result: object) -> None:
        self.result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for segment in console.render(self.result, options):  # type: ignore[arg-type]
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else str(value)


if __name__ == "__main__":
    main()
