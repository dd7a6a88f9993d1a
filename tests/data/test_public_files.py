"""The files that pydicom and nibabel ship for their own tests: what a run on volumes and one on pictures do with each.

`public_files.csv` says it file by file; nothing crashes, and what is not read is refused in a sentence that names it.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("itk")

import nibabel.tests  # noqa: E402

from kanscan.data.dicom.picture import read_dicom_picture, read_picture_header  # noqa: E402
from kanscan.data.volumes.formats import read_case_volume  # noqa: E402
from kanscan.data.volumes.search import find_volumes  # noqa: E402

TABLE = Path(__file__).parent / "public_files.csv"
ROOTS = {"pydicom": Path(pydicom.data.__file__).parent, "nibabel": Path(nibabel.tests.__file__).parent / "data"}
_LONGEST = 60


def files() -> list[tuple[str, str]]:
    return [
        (package, path.relative_to(root).as_posix())
        for package, root in ROOTS.items()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc", ".json", ".txt", ".md")
    ]


def as_volume(path: Path) -> str:
    shapes = [read_case_volume(case) for case in find_volumes([path])]
    return "; ".join(f"read {'x'.join(map(str, one.array.shape))} {one.array.dtype.name}" for one in shapes)


def as_picture(path: Path) -> str:
    frames = read_picture_header(path).frames
    array, spacing = read_dicom_picture(path, 0 if frames > 1 else None)
    told = "" if spacing is None else f" {spacing[0]:g}x{spacing[1]:g} mm"
    return f"read {frames} of {'x'.join(map(str, array.shape))} {array.dtype.name}{told}"


def outcome(path: Path, read: Callable[[Path], str]) -> str:
    """Say what came of reading: figures, or the beginning of the sentence without paths."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(path)
    except (ValueError, OSError) as error:
        sentence = str(error)
    assert path.name in sentence or path.parent.name in sentence, f"{path}: {sentence}"
    assert "\n" not in sentence
    # What a decoder gives as its reason is the decoder's.
    sentence = re.sub(r"^(cannot (?:read|decode) .+?): .*", r"\1", sentence)
    bare = re.sub(r"\S*/(?:\S*/)*(\S+?)(?=[ ,;:)]|$)", "", sentence)
    return " ".join(bare.split())[:_LONGEST].strip()


def table() -> list[dict[str, str]]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("package", list(ROOTS))
def test_every_file_does_what_the_table_says(package):
    rows = {row["file"]: row for row in table() if row["package"] == package}
    there = {name for owner, name in files() if owner == package}
    # Another version of the package may ship more or fewer files; those that are there and known are compared.
    assert len(there & rows.keys()) >= 0.9 * len(rows)
    wrong = []
    for name in sorted(there & rows.keys()):
        path = ROOTS[package] / name
        found = {
            "volume": outcome(path, as_volume),
            "picture": outcome(path, as_picture) if package == "pydicom" else "",
        }
        wrong += [(name, kind, found[kind], rows[name][kind]) for kind in found if found[kind] != rows[name][kind]]
    assert wrong == []


def test_what_the_table_counts():
    rows = [row for row in table() if row["package"] == "pydicom"]
    volumes = sum(row["volume"].startswith("read") for row in rows)
    pictures = sum(row["picture"].startswith("read") for row in rows)
    assert (len(rows), volumes, pictures) == COUNTED["pydicom"]
    rows = [row for row in table() if row["package"] == "nibabel"]
    assert (len(rows), sum(row["volume"].startswith("read") for row in rows)) == COUNTED["nibabel"]


#: Files; of these read as volumes; of these read as pictures.
COUNTED = {"pydicom": (197, 40, 92), "nibabel": (85, 9)}


if __name__ == "__main__":  # writes the table anew, to be read before it is kept
    with TABLE.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(["package", "file", "volume", "picture"])
        for owner, one in files():
            place = ROOTS[owner] / one
            writer.writerow(
                [owner, one, outcome(place, as_volume), outcome(place, as_picture) if owner == "pydicom" else ""]
            )
