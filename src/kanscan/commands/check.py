"""`check`: what is in a data folder, and what is wrong with it, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kanscan.workflows.check import Checked


def check(
    data: Path,
    options: list[str] | None = None,
    *,
    reader: str = "auto",
    output: Path | None = None,
    sheet: bool = True,
    json: bool = False,
) -> Checked:
    """Read a data folder before any training and say what is in it and what is wrong with it.

    Every file is read once. Nothing is ever written into the folder.

    Args:
        data: Folder of the data set.
        options: Options of the reader as key=value, for example normal=true, labels=nonzero.
        reader: Layout of the folder, one of `kanscan show datasets`; auto recognizes it.
        output: PNG file for the contact sheet, or a folder for it; by default check-NAME.png in the current folder.
        sheet: Draw a contact sheet with the labels over the images.
        json: Print JSON.

    Returns:
        What was found; `errors` lists what must be mended.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The layout is not known, an option is wrong, or the contact sheet would lie in the data folder.

    Example:
        >>> import tempfile
        >>> from kanscan.data.made.synthetic import write_ultrasound
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = check(write_ultrasound(f"{folder}/us", 4, image_size=(32, 32)), sheet=False)
        >>> found.num_cases, found.errors
        (4, ())
    """
    from kanscan.config.recipe import parse_overrides

    data, settings = Path(data), parse_overrides(options or ())
    if not data.exists():
        raise FileNotFoundError(f"no data folder at {data}")
    from kanscan.workflows.check import check_folder

    return check_folder(data, reader, settings, sheet=sheet, output=output)
