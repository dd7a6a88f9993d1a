"""What strangers send and what disks refuse: links, junk, names, full disks, killed writers."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kanscan import files
from kanscan.commands.evaluate import evaluate
from kanscan.commands.explain import explain
from kanscan.commands.predict import predict
from kanscan.config.recipe import load_recipe
from kanscan.data.case import Case
from kanscan.files import NoRoomError, atomic, printable, read_json, write_json, write_text
from kanscan.run import Run
from kanscan.run.environment import environment
from kanscan.workflows.progress import demand_output, work_through

OLD = Path(__file__).parent / "runs_of_0_1_0" / "pictures"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "run"))


@pytest.mark.parametrize("name", ["pictures", "model.safetensors.bak", "explanation/pruned/recipe.yaml"])
def test_links_that_lead_out_of_a_run_are_refused_by_name(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "01-best-a.png").write_bytes(b"mine")
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    # The last one dangles: a file would be made there.
    (run / name).symlink_to(tmp_path / ("mine" if name == "pictures" else "nothing-there"))
    for command in (evaluate, explain, lambda path: predict(path, [OLD / "run.json"], output=tmp_path / "out")):
        with pytest.raises(ValueError, match=r"is a link to .* outside the run") as caught:
            command(run)
        assert name in str(caught.value)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["01-best-a.png"]
    assert not (tmp_path / "nothing-there").exists() and not (tmp_path / "out").exists()


def test_links_within_a_run_are_fine(run: Path) -> None:
    (run / "best.safetensors").symlink_to("model.safetensors")
    assert Run.open(run).facts.kind == "pictures"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " * 5000, "not valid YAML"),
        ("[" * 20000, "nested too deeply|not valid YAML"),
        ("- 1\n- 2", "must hold keys and values"),
        ("optim: 3", "optim"),
        ("model: {name: [1]}", "model.name"),
        ("trainer: {epochs: many}", "trainer.epochs"),
    ],
)
def test_a_recipe_of_junk_is_one_sentence_with_its_file(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        load_recipe(path)
    assert "odd.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes("name: Bär".encode("latin-1"))
    with pytest.raises(ValueError, match=r"odd\.yaml is not UTF-8"):
        load_recipe(tmp_path / "odd.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[" * 100_000, b"{", b""])
def test_json_of_junk_is_one_sentence_with_its_file(content: bytes, run: Path) -> None:
    for name in ("run.json", "split.json"):
        kept = (run / name).read_bytes()
        (run / name).write_bytes(content)
        with pytest.raises(ValueError, match="not valid JSON") as caught:
            evaluate(run)
        assert name in str(caught.value)
        (run / name).write_bytes(kept)


def test_names_do_nothing_to_a_terminal_and_stay_exact_in_files(tmp_path: Path) -> None:
    name = "a\x1b[31mred\x07\udcff\u202e.png"
    shown = printable(name)
    assert shown.isprintable() and "\\x1b[31mred\\x07\\udcff\\u202e" in shown
    shown.encode()
    assert read_json(write_json(tmp_path / "a.json", {name: name})) == {name: name}
    text = write_text(tmp_path / "a.txt", name).read_text(encoding="utf-8", errors="surrogateescape")
    assert text == name


def test_the_shell_prints_names_harmless(tmp_path: Path) -> None:
    folder = tmp_path / "x\x1b[31m[bold]"
    call = [sys.executable, "-m", "kanscan.cli", "check", str(folder)]
    found = subprocess.run(call, capture_output=True, text=True)
    assert found.returncode == 2 and "\x1b" not in found.stderr and "[bold]" in found.stderr
    folder.mkdir()
    subprocess.run([sys.executable, "-c", _DRAW, str(folder / "data")], check=True)
    found = subprocess.run(
        [*call[:-1], str(folder / "data"), "--output", str(tmp_path)], capture_output=True, text=True
    )
    assert found.returncode == 0 and "\x1b" not in found.stdout and "\\x1b[31m[bold]" in found.stdout.replace("\n", "")


_DRAW = (
    "import sys; from kanscan.data.made.synthetic import write_ultrasound as w; w(sys.argv[1], 4, image_size=(32, 32))"
)


_DIE = """
import os, sys
from kanscan.files import atomic
with atomic(sys.argv[1]) as path:
    path.write_text("half")
    os._exit(9)
"""


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    assert write_text(tmp_path / ("n" * 251 + ".txt"), "x").read_text() == "x"


def test_what_a_killed_writer_left_is_cleared_and_a_living_one_is_not(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _DIE, str(tmp_path / "a.json")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a~") and left.suffix == ".json"
    with atomic(tmp_path / "b.json") as mine:
        mine.write_text("whole")
        assert not left.exists() and mine.exists()
        files._cleared.clear()
        write_text(tmp_path / "c.json", "other")
        assert mine.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.json", "c.json"]


def test_a_full_disk_is_one_sentence_and_stops_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    done = []

    def work(case: Case) -> None:
        done.append(case.id)
        monkeypatch.setattr(Path, "replace", full)
        write_text(tmp_path / "out" / case.id, "x")

    with pytest.raises(NoRoomError, match=r"cannot write .*out/a: No space left"):
        work_through([Case("a", ()), Case("b", ())], work, "working")
    assert done == ["a"] and list((tmp_path / "out").iterdir()) == []


def test_a_writer_that_fell_short_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="of its own"), atomic(tmp_path / "a"):
        raise RuntimeError("a reason of its own")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(NoRoomError, match="the disk is full"), atomic(tmp_path / "a"):
        raise RuntimeError("inline_container.cc: unexpected pos")
    with pytest.raises(NoRoomError, match="needs 16 MiB at least"):
        demand_output(tmp_path / "new" / "folder", "the report")


def test_whatever_a_codec_raises_is_one_failed_case() -> None:
    class Panic(BaseException):
        """What libraries written in other languages raise."""

    def work(case: Case) -> str:
        if case.id == "b":
            raise Panic("index out of bounds")
        if case.id == "c":
            raise MemoryError
        return case.id

    done = work_through([Case(i, (Path(f"{i}.png"),)) for i in "abcd"], work, "working")
    assert done.results == ("a", "d")
    assert [one.sentence for one in done.failures] == ["b.png: Panic: index out of bounds", "c.png: MemoryError"]

    def interrupted(case: Case) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_through([Case("a", ())], interrupted, "working")


def test_a_repository_runs_no_program_of_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    there = tmp_path / "repository"
    there.mkdir()
    (there / "a").write_text("1")

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=there, check=True)

    git("init", "-q")
    git("add", "a")
    git("commit", "-qm", "one")
    (there / ".gitattributes").write_text("* filter=odd\n")
    for key in (
        "core.fsmonitor",
        "filter.odd.clean",
        "filter.odd.smudge",
        "diff.external",
        "core.pager",
        "core.editor",
    ):
        git("config", key, str(program))
    (there / "a").write_text("2")
    monkeypatch.chdir(there)
    (tmp_path / "ran").unlink(missing_ok=True)
    found = environment("cpu")["git"]
    assert len(found["commit"]) == 40
    assert not (tmp_path / "ran").exists()


def test_json_of_a_result_is_exact() -> None:
    assert json.loads(files.to_json({"name": os.fsdecode(b"\xff.png")})) == {"name": os.fsdecode(b"\xff.png")}
