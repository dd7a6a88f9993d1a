"""`train` as users meet it: a recipe, their own folder, a run; and everything they may get wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kanscan import load_predictor
from kanscan.commands.train import train
from kanscan.data.made.synthetic import write_ultrasound
from kanscan.pipelines import evaluation_cases
from kanscan.run import Run

TINY = ["model.options.channels=[16,16,24]", "data.image_size=[32,32]", "trainer.batch_size=4", "trainer.device=cpu"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_ultrasound(tmp_path_factory.mktemp("data") / "us", 12, image_size=(40, 50))


@pytest.fixture(scope="module")
def tiny(pictures):
    return ["ukan", [f"data.root={pictures}", *TINY]]


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    return train(*tiny, epochs=3, output=tmp_path_factory.mktemp("runs") / "a")


def own_folder(root, count=8, size=(37, 45), channels=3, value=255):
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        shape = (size[0] + index, size[1], channels) if channels > 1 else (size[0] + index, size[1])
        image = random.integers(0, 255, shape, dtype=np.uint8)
        mask = np.zeros(shape[:2], np.uint8)
        mask[5:20, 8:30] = value
        Image.fromarray(image).save(root / "images" / f"case{index}.png")
        Image.fromarray(mask).save(root / "masks" / f"case{index}.png")
    return root


def everything(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_holds_what_it_promises(finished):
    names = {path.name for path in finished.path.iterdir()}
    wanted = {"recipe.yaml", "run.json", "split.json", "environment.json", "curves.csv", "model.safetensors"}
    assert wanted <= names
    assert len(finished.curves) == 3
    split = json.loads(finished.split_path.read_text())
    assert not set(split["train"]) & set(split["test"])
    groups = split["case_groups"]
    assert not {groups[i] for i in split["train"]} & {groups[i] for i in split["test"]}
    assert finished.recipe.data.root.is_absolute()


def test_a_run_predicts_without_the_data_and_elsewhere(finished, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("recipe.yaml", "run.json", "split.json", "model.safetensors"):
        shutil.copy(finished.path / name, moved / name)
    recipe = (moved / "recipe.yaml").read_text().replace(str(finished.recipe.data.root), "/nowhere")
    (moved / "recipe.yaml").write_text(recipe)
    image = np.random.default_rng(1).integers(0, 255, (61, 47), dtype=np.uint8)
    here, there = (load_predictor(path, device="cpu")(image) for path in (finished.path, moved))
    assert here.label.shape == (61, 47)
    np.testing.assert_array_equal(here.probabilities, there.probabilities)


def test_the_cases_of_a_part(finished, pictures, tmp_path):
    split = json.loads(finished.split_path.read_text())
    found = evaluation_cases(finished)
    assert [case.id for case in found.cases] == split["test"]
    assert found.source.label_map.num_classes == 2
    assert len(evaluation_cases(finished, part="all").cases) == 12
    moved = shutil.copytree(pictures, tmp_path / "us")
    assert all(moved in case.images[0].parents for case in evaluation_cases(finished, root=moved).cases)
    with pytest.raises(ValueError, match="unknown part 'tests': did you mean 'test'"):
        evaluation_cases(finished, part="tests")
    other = own_folder(tmp_path / "other")
    with pytest.raises(ValueError, match="does not hold"):
        evaluation_cases(finished, root=other)


def test_a_folder_of_odd_sizes_needs_no_recipe(tmp_path, capsys):
    folder = own_folder(tmp_path / "my pictures")
    run = train(str(folder), TINY, epochs=1, output=tmp_path / "run")
    assert run.recipe.name == "ukan-my pictures"
    text = capsys.readouterr().err
    assert "epoch 1/1" in text
    assert f"kanscan predict {run.path}" in text


def test_own_sizes_are_padded_where_no_size_is_set(tmp_path):
    folder = own_folder(tmp_path / "data", size=(70, 45))
    run = train(
        str(folder),
        [TINY[0], "data.image_size=null", "trainer.batch_size=1"],
        epochs=1,
        device="cpu",
        output=tmp_path / "run",
    )
    assert load_predictor(run.path, device="cpu")(np.zeros((71, 33, 3), np.uint8)).label.shape == (71, 33)


def test_without_a_cache_the_files_are_read_again_and_give_the_same(tiny, finished, tmp_path):
    run = train(tiny[0], [*tiny[1], "data.cache=false"], epochs=3, output=tmp_path / "run")
    assert run.weights_path.read_bytes() == finished.weights_path.read_bytes()


def test_a_dry_run_shows_costs_and_writes_nothing(tiny, tmp_path):
    plan = train(*tiny, output=tmp_path / "run", dry_run=True)
    assert plan.num_train + plan.num_validation + plan.num_test == 12
    assert plan.num_parameters > 10_000
    assert plan.macs > 0
    assert plan.memory_mib > 0
    assert plan.loss > 0
    assert "Nothing was written" in plan.__rich__()
    assert not (tmp_path / "run").exists()
    assert plan.total_seconds >= plan.num_steps * plan.step_seconds > 0
    assert f"steps       {plan.num_steps:,} in all, about 1 minute" in plan.__rich__()
    assert train(tiny[0], [*tiny[1], "dry_run=true"], output=tmp_path / "run").macs == plan.macs


def test_an_existing_run_is_left_alone_without_resume(tiny, finished):
    before = everything(finished.path)
    with pytest.raises(FileExistsError, match="resume=true"):
        train(*tiny, epochs=3, output=finished.path)
    with pytest.raises(FileExistsError, match="resume=true"):
        train(str(finished.path))
    assert everything(finished.path) == before


def test_a_finished_run_is_only_shown(tiny, finished, capsys):
    before = everything(finished.path)
    train(str(finished.path), ["resume=true"])
    train(*tiny, epochs=3, output=finished.path, resume=True)
    assert "finished before" in capsys.readouterr().err
    assert everything(finished.path) == before


def test_a_run_does_not_go_on_under_another_recipe(tiny, finished):
    before = everything(finished.path)
    with pytest.raises(ValueError, match=r"made with optim\.lr=0\.001"):
        train(str(finished.path), ["optim.lr=0.5"], resume=True)
    with pytest.raises(ValueError, match=r"made with model\.name=ukan"):
        train(*tiny, epochs=3, model="unext", output=finished.path, resume=True)
    assert everything(finished.path) == before


def test_resume_starts_what_was_never_begun(tiny, finished, tmp_path):
    run = train(*tiny, epochs=3, output=tmp_path / "run", resume=True)
    assert run.weights_path.read_bytes() == finished.weights_path.read_bytes()


KILLED = """
import os, signal, sys
import torch
from kanscan.training.segmentation import SegmentationTask
torch.set_num_threads(1)
step = SegmentationTask.training_step
def dying(self, batch, index):
    if self.current_epoch == 1 and index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
SegmentationTask.training_step = dying
from kanscan.commands.train import train
train("ukan", sys.argv[2:], epochs=3, output=sys.argv[1])
"""


@pytest.mark.slow
def test_a_run_killed_in_another_process_goes_on_to_the_same_weights(tiny, finished, tmp_path):
    path = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, str(path), *tiny[1]]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(Run.open(path).curves) == 1
    train(str(path), ["resume=true"])
    for name in ("model.safetensors", "checkpoints/last.safetensors"):
        assert (path / name).read_bytes() == (finished.path / name).read_bytes()


LONG = """
import sys, time
import torch
from kanscan.training.segmentation import SegmentationTask
torch.set_num_threads(1)
step = SegmentationTask.training_step
def slow(self, batch, index):
    if self.current_epoch == 1:
        print("training", flush=True)
        time.sleep(600)
    return step(self, batch, index)
SegmentationTask.training_step = slow
from kanscan.commands.train import train
train("ukan", sys.argv[2:], epochs=3, output=sys.argv[1])
"""


def test_two_trainings_of_one_run_are_refused_and_the_killed_one_goes_on(tiny, finished, tmp_path):
    path = tmp_path / "run"
    command = [sys.executable, "-c", LONG, str(path), *tiny[1]]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "training\n"
        for target, output in ((str(path), None), (tiny[0], path)):
            with pytest.raises(ValueError, match=rf"training is under way in {path} \(process {first.pid} on"):
                train(target, tiny[1], epochs=3, output=output, resume=True)
    finally:
        first.kill()
        first.wait()
    train(str(path), resume=True)
    assert (path / "model.safetensors").read_bytes() == (finished.path / "model.safetensors").read_bytes()
    assert not list(path.glob(".*"))


def test_an_interrupted_training_says_how_to_go_on(tiny, tmp_path, monkeypatch, capsys):
    from kanscan.training.segmentation import SegmentationTask

    step = SegmentationTask.training_step

    def interrupted(self, batch, index):
        if self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, index)

    monkeypatch.setattr(SegmentationTask, "training_step", interrupted)
    with pytest.raises(SystemExit) as caught:
        train(*tiny, epochs=3, output=tmp_path / "run")
    assert caught.value.code == 130
    assert f"kanscan train {tmp_path / 'run'} resume=true" in capsys.readouterr().err


def damaged(kind):
    def damage(root):
        image, mask = root / "images" / "case3.png", root / "masks" / "case3.png"
        if kind == "unreadable":
            image.write_bytes(b"no picture")
        elif kind == "size":
            Image.fromarray(np.zeros((9, 9), np.uint8)).save(mask)
        elif kind == "no masks":
            shutil.rmtree(root / "masks")
        elif kind == "channels":
            Image.fromarray(np.zeros((40, 45, 4), np.uint8) + 90).save(image)
        elif kind == "NaN":
            import tifffile

            image.unlink()
            tifffile.imwrite(root / "images" / "case3.tif", np.full((40, 45), np.nan, np.float32))

    return damage


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("unreadable", r"case3\.png"),
        ("size", "case3"),
        ("no masks", "masks"),
        ("NaN", r"case3\.tif.*NaN"),
    ],
)
def test_a_broken_folder_is_one_sentence_and_leaves_nothing(tmp_path, kind, words):
    folder = own_folder(tmp_path / "data")
    damaged(kind)(folder)
    with pytest.raises((ValueError, OSError), match=words) as caught:
        train(str(folder), TINY, epochs=1, output=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.name=ukann"], "unknown model 'ukann': did you mean 'ukan'"),
        (["model.options.depth=3"], "unknown option of model ukan 'depth'"),
        (["model.preset=tiny"], "unknown preset of model ukan 'tiny'"),
        (["model.options.in_channels=7"], "in_channels=7, but the pictures have 1 channels"),
        (["model.options.out_channels=3"], "out_channels=3, but the data has 2 classes"),
        (["model.name=ukan_diffusion", "model.options={}"], "does not suit a network that generates"),
        (["data.reader=busii"], "unknown reader 'busii': did you mean 'busi'"),
        (["data.augmentation=flip"], "unknown augmentation 'flip'"),
        (["data.normalization=z"], "unknown normalization 'z'"),
        (["data.image_size=[40,50]"], r"multiples of 32 x 32; the next legal size is \[64, 64\]"),
        (["loss.name=dice"], "unknown loss.name 'dice'"),
        (["loss.deep_supervision=true"], "no side outputs"),
        (["optim.min_lr=0.1"], "above the learning rate"),
        (["trainer.batch_size=1"], r"trainer\.batch_size to 2"),
        (["trainer.device=gpu"], "unknown device 'gpu'"),
        (["trainer.precision=16-mixed"], "needs a GPU"),
        (["split.kind=file"], "split.file"),
        (["data.root=nowhere"], "no folder at nowhere"),
        (["resume=maybe"], "resume is true or false"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_leaves_nothing(tiny, tmp_path, settings, words):
    with pytest.raises((ValueError, OSError), match=words) as caught:
        train(tiny[0], [*tiny[1], *settings], epochs=1, output=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_wrong_targets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="does not say where the data lie"):
        train("ukan-quick")
    with pytest.raises(ValueError, match="unknown recipe 'ukan-quik': did you mean 'ukan-quick'"):
        train("ukan-quik")
    with pytest.raises(FileNotFoundError, match="no folder at"):
        train("my/pictures")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="is a file; expected a recipe"):
        train("notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        train("empty")


def test_an_unwritable_output_is_found_out(tiny, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        train(*tiny, epochs=1, output=file)
    with pytest.raises(PermissionError, match="choose another --output"):
        train(*tiny, epochs=1, output=file / "run")
    assert file.read_text() == "mine"


def test_weights_of_another_network_are_refused(tiny, finished, tmp_path):
    other = train(tiny[0], [*tiny[1], "model.options.channels=[16,16,32]"], epochs=1, output=tmp_path / "other")
    copy = shutil.copytree(finished.path, tmp_path / "copy")
    shutil.copy(other.weights_path, copy / "model.safetensors")
    with pytest.raises(ValueError, match="shape"):
        load_predictor(copy, device="cpu")
    with pytest.raises(ValueError, match="shape"):
        train(tiny[0], [*tiny[1], f"model.weights={other.weights_path}"], epochs=1, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    # A state of another network in the place of one's own.
    unfinished = train(*tiny, epochs=1, output=tmp_path / "own", resume=True)
    shutil.copy(other.state_path, unfinished.state_path)
    recipe = unfinished.recipe_path
    recipe.write_text(recipe.read_text().replace("epochs: 1", "epochs: 4"))
    before = everything(unfinished.path)
    with pytest.raises(ValueError, match="belongs to another network"):
        train(str(unfinished.path), resume=True)
    after = everything(unfinished.path)
    assert all(after[name] == before[name] for name in before if not name.endswith("environment.json"))


def test_weights_to_start_from(tiny, finished, tmp_path):
    run = train(
        tiny[0],
        [*tiny[1], f"model.weights={finished.weights_path}", "optim.lr=1e-12", "optim.kan_lr=1e-12", "optim.min_lr=0"],
        epochs=1,
        output=tmp_path / "run",
    )
    ours, theirs = load_file(run.weights_path), load_file(finished.weights_path)
    name = "final.weight" if "final.weight" in ours else next(n for n in ours if n.endswith("weight"))
    torch.testing.assert_close(ours[name], theirs[name])


def test_pretrained_encoders(tiny, tmp_path):
    from kanscan.config.recipe import load_recipe
    from kanscan.models import released_state_dict
    from kanscan.pipelines import PICTURES
    from kanscan.pipelines.parts import build_model, load_weights

    path = tmp_path / "imagenet.pth"
    recipe = load_recipe("", {"model.name": "vm_unet", "model.options": {"channels": 8}, "model.pretrained": str(path)})
    model = build_model(recipe, PICTURES.options(recipe, 3, 2))
    released = released_state_dict(model).items()
    torch.save({"model": {k.removeprefix("vmunet."): torch.full_like(v, 0.5) for k, v in released}}, path)
    assert "tensors of the encoder" in load_weights(recipe, model)
    assert sum(bool((p == 0.5).all()) for p in model.encoder.parameters()) > 50
    with pytest.raises(ValueError, match="has no pretrained encoder"):
        train(tiny[0], [*tiny[1], f"model.pretrained={path}"], output=tmp_path / "run")
    with pytest.raises(ValueError, match="both set"):
        train(tiny[0], [*tiny[1], f"model.pretrained={path}", f"model.weights={path}"], output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_failure_in_the_first_epoch_leaves_room_for_a_second_try(tiny, tmp_path):
    with pytest.raises(ValueError, match="loss became"):
        train(tiny[0], [*tiny[1], "optim.lr=1e30"], epochs=2, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_long_training_on_a_cpu_names_what_is_made_for_one(tiny, tmp_path):
    plan = train(*tiny, epochs=10**6, output=tmp_path / "run", dry_run=True)
    assert any("ukan-quick is made for one" in note for note in plan.notes)
    assert " days" in plan.__rich__() or " hours" in plan.__rich__()


def test_fine_tuning_takes_what_fits_and_tells_the_rest(tiny, finished, tmp_path, capsys):
    settings = [*tiny[1], f"model.weights={finished.path}", "data.channels=3", "model.freeze=[encoder]"]
    run = train(tiny[0], settings, epochs=1, output=tmp_path / "run")
    told = capsys.readouterr().err
    assert f"starts from {finished.weights_path}" in told
    assert "fresh are encoder.0.conv1.weight (there (2, 1, 3, 3), here (2, 3, 3, 3))" in told
    old, new = load_file(finished.weights_path), load_file(run.weights_path)
    assert torch.equal(old["encoder.1.conv1.weight"], new["encoder.1.conv1.weight"])
    assert not torch.equal(old["head.weight"], new["head.weight"])
    with pytest.raises(ValueError, match=r"this network has encoder, embeddings"):
        train(tiny[0], [*tiny[1], "model.freeze=[encodr]"], epochs=1, output=tmp_path / "other")
    with pytest.raises(ValueError, match=r"another network|matches nothing|shape"):
        train(tiny[0], [tiny[1][0], *TINY[1:], f"model.weights={finished.path}"], model="unext", output=tmp_path / "o")


def test_a_finished_run_goes_on_for_more_epochs_under_a_new_schedule(tiny, tmp_path, capsys):
    run = train(*tiny, epochs=2, output=tmp_path / "run")
    train(str(run.path), ["trainer.epochs=4"], resume=True)
    assert "cosine schedule was made for 2 epochs and has ended; a new one" in capsys.readouterr().err
    rates = [row["lr"] for row in run.curves]
    assert len(rates) == 4
    assert rates[2] == pytest.approx(rates[0])
    assert run.recipe.trainer.epochs == 4
    # Fewer are not asked for again, and an unfinished run keeps its length.
    with pytest.raises(ValueError, match=r"trainer\.epochs=4, now trainer\.epochs=3"):
        train(str(run.path), ["trainer.epochs=3"], resume=True)
