"""A whole training on a tiny network: what it leaves behind, when it stops, and that a kill changes nothing."""

import multiprocessing
import os
import signal

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.utils.data import DataLoader

from kanscan.config.parts import OPTIMIZERS, TrainerConfig
from kanscan.data.loading import EpochSampler
from kanscan.models.lkm_unet import LKMUNet
from kanscan.ops import native
from kanscan.training.checkpoint import Files, best_row, is_finished, read_state, rows_of_state
from kanscan.training.device import choose_device, device_text, training_memory_mib
from kanscan.training.losses import BCEDiceLoss
from kanscan.training.rate_search import find_learning_rate
from kanscan.training.segmentation import SegmentationTask
from kanscan.training.session import train_task, try_steps
from kanscan.training.stopping import Interrupted, StopReason
from kanscan.training.trainer import check_precision


class Small(nn.Module):
    """Convolution, batch norm and dropout: weights, buffers and a random stream."""

    stride = (1, 1)

    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(width, 1, 1)
        )

    def forward(self, x):
        return self.body(x)


class Squares:
    """Bright squares on noise, drawn from (epoch, index) as the real data set augments."""

    def __len__(self):
        return 12

    def __getitem__(self, key):
        epoch, index = key
        random = torch.Generator().manual_seed(1000 * epoch + index)
        image, label = torch.randn(3, 16, 16, generator=random), torch.zeros(16, 16, dtype=torch.long)
        x, y = torch.randint(0, 8, (2,), generator=random).tolist()
        label[x : x + 8, y : y + 8] = 1
        return {"image": image + label, "label": label, "index": index, "id": f"case{index}"}


def loader(shuffle):
    return DataLoader(
        Squares(),
        batch_size=4,
        sampler=EpochSampler(12, seed=3, shuffle=shuffle),
        generator=torch.Generator().manual_seed(0),
    )


def new_task(width=4):
    torch.manual_seed(5)
    optim = OPTIMIZERS.validate({"lr": 1e-2, "kan_lr": None, "min_lr": 1e-4})
    return SegmentationTask(Small(width), BCEDiceLoss(), optim, 4, seed=7)


def files_in(folder):
    state = folder / "checkpoints" / "last.ckpt"
    return Files(folder / "best.safetensors", folder / "last.safetensors", state, folder / "curves.csv")


def train(folder, task=None, validation=True, **options):
    settings = {"epochs": 4, "device": "cpu"} | options
    loaders = (loader(True), loader(False) if validation else None)
    part = TrainerConfig(**settings)
    return train_task(task or new_task(), loaders, files_in(folder), folder, part, about={"model": "small"})


def content(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def assert_same(one, other):
    for name in ("best.safetensors", "last.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    rows, others = (rows_of_state(read_state(files_in(folder).state)) for folder in (one, other))
    assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in others]


def test_it_learns_and_leaves_weights_curves_and_state(whole):
    rows = rows_of_state(read_state(files_in(whole).state))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[0]["lr"] == pytest.approx(1e-2)
    assert len((whole / "curves.csv").read_text().splitlines()) == 5
    _, about = content(whole / "best.safetensors")
    assert f'"epoch": {best_row(rows, "dice")["epoch"]}' in about["kanscan"]
    assert is_finished(files_in(whole).state, TrainerConfig(epochs=4))
    assert not is_finished(files_in(whole).state, TrainerConfig(epochs=5))


def test_the_same_seed_gives_the_same_bits(whole, tmp_path):
    train(tmp_path)
    assert_same(whole, tmp_path)


def stopping(monkeypatch, moment):
    """Kill this very process, without a chance to clean up, at a moment of the third epoch."""

    def die(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    import kanscan.training.checkpoint as checkpoint

    if moment == "before any state":
        monkeypatch.setattr(checkpoint.Checkpoints, "on_train_epoch_start", die)
    elif moment == "within an epoch":
        step = SegmentationTask.training_step

        def training_step(self, batch, index):
            return die() if (self.current_epoch, index) == (2, 1) else step(self, batch, index)

        monkeypatch.setattr(SegmentationTask, "training_step", training_step)
    elif moment == "after weights":
        write_weights = checkpoint.write_weights

        def weights_then_die(path, model, about):
            write_weights(path, model, about)
            return die() if (path.stem, about["epoch"]) == ("last", 3) else None

        monkeypatch.setattr(checkpoint, "write_weights", weights_then_die)
    else:
        write_curves = checkpoint.write_curves

        def curves_then_die(path, rows):
            write_curves(path, rows)
            return die() if len(rows) == 3 else None

        monkeypatch.setattr(checkpoint, "write_curves", curves_then_die)


@pytest.mark.parametrize("moment", ["before any state", "within an epoch", "after weights", "after curves"])
def test_a_killed_training_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch, moment):
    with monkeypatch.context() as patch:
        stopping(patch, moment)
        child = multiprocessing.get_context("fork").Process(target=train, args=(tmp_path,))
        child.start()
        child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not is_finished(files_in(tmp_path).state, TrainerConfig(epochs=4))
    train(tmp_path)
    assert_same(whole, tmp_path)


def longer_task(epochs):
    task = new_task()
    task.epochs = epochs
    return task


def test_a_finished_training_goes_on_under_a_new_schedule(whole, tmp_path):
    import shutil

    for name in ("a", "b"):
        shutil.copytree(whole, tmp_path / name)
    rows = train(tmp_path / "a", longer_task(7), epochs=7).rows
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    # Half a cosine over the three further epochs, from the first rate.
    assert [row["lr"] for row in rows[4:]] == pytest.approx([1e-2, 1e-4 + 0.75 * 9.9e-3, 1e-4 + 0.25 * 9.9e-3])
    # Interrupted on the way, it comes to the same bits.
    part = train(tmp_path / "b", longer_task(7), epochs=7, time_budget_minutes=1e-6)
    assert len(part.rows) == 5
    train(tmp_path / "b", longer_task(7), epochs=7)
    assert_same(tmp_path / "a", tmp_path / "b")
    assert rows[:4] == rows_of_state(read_state(files_in(whole).state))


def test_a_state_of_version_0_1_goes_on_under_a_new_schedule_too(whole, tmp_path):
    import shutil

    shutil.copytree(whole, tmp_path / "a")
    state = torch.load(files_in(tmp_path / "a").state, weights_only=True)
    del state["schedule"]
    torch.save(state, files_in(tmp_path / "a").state)
    rows = train(tmp_path / "a", longer_task(6), epochs=6).rows
    assert [row["lr"] for row in rows[4:]] == pytest.approx([1e-2, 1e-4 + 0.5 * 9.9e-3])


def test_a_schedule_of_its_own_length_goes_on_as_in_a_longer_training(tmp_path):
    def task(epochs):
        task = longer_task(epochs)
        task.optim = task.optim.model_copy(update={"schedule_epochs": 3})
        return task

    train(tmp_path / "a", task(2), epochs=2)
    train(tmp_path / "a", task(4), epochs=4)
    train(tmp_path / "b", task(4), epochs=4)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_frozen_parameters_learn_only_later(tmp_path):
    task = new_task()
    task.freeze(["body.0", "body.1"], epochs=2)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    train(tmp_path / "a", task, epochs=2)
    after = task.model.state_dict()
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert same == {name for name in after if name.startswith(("body.0.", "body.1."))}
    # In the third epoch all of it learns, and an interruption before it changes nothing.
    again, once = new_task(), new_task()
    for one in (again, once):
        one.freeze(["body.0", "body.1"], epochs=2)
    train(tmp_path / "a", again, epochs=3)
    assert not torch.equal(before["body.0.weight"], again.model.state_dict()["body.0.weight"])
    train(tmp_path / "b", once, epochs=3)
    assert_same(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match="no parameter begins so; this network has body"):
        new_task().freeze(["encoder"])
    with pytest.raises(ValueError, match="nothing would be learned"):
        new_task().freeze(["body"])


def test_a_signal_stops_after_the_batch_and_the_rest_follows(whole, tmp_path, monkeypatch):
    step = SegmentationTask.training_step

    def training_step(self, batch, index):
        if (self.current_epoch, index) == (1, 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, index)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "training_step", training_step)
        with pytest.raises(Interrupted, match="SIGTERM"):
            train(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    train(tmp_path)
    assert_same(whole, tmp_path)


def test_patience_and_time_end_a_training(tmp_path):
    ended = train(tmp_path / "a", epochs=50, patience=1)
    assert ended.stopped.reason is StopReason.PATIENCE
    assert "patience=1" in str(ended.stopped)
    assert len(ended.rows) < 50
    assert is_finished(files_in(tmp_path / "a").state, TrainerConfig(epochs=50, patience=1))
    ended = train(tmp_path / "b", epochs=50, time_budget_minutes=1e-6)
    assert ended.stopped.reason is StopReason.TIME_BUDGET
    assert len(ended.rows) == 1
    # A resume counts the time anew.
    assert len(train(tmp_path / "b", epochs=2, time_budget_minutes=10).rows) == 2


def test_without_validation_the_last_weights_serve(tmp_path):
    ended = train(tmp_path, validation=False, epochs=2)
    assert ended.rows[-1]["val_dice"] is None
    best, last = content(tmp_path / "best.safetensors")[0], content(tmp_path / "last.safetensors")[0]
    assert all(torch.equal(best[name], last[name]) for name in last)


def test_validation_every_second_epoch(tmp_path):
    rows = train(tmp_path, validate_every=2).rows
    assert [row["val_dice"] is None for row in rows] == [True, False, True, False]
    assert (tmp_path / "curves.csv").read_text().splitlines()[1].split(",")[2:5] == ["", "", ""]


def test_the_loss_alone_may_choose_the_epoch():
    rows = [{"epoch": 1, "val_loss": 0.3, "val_dice": 0.5}, {"epoch": 2, "val_loss": 0.4, "val_dice": 0.6}]
    assert best_row(rows, "loss") is rows[0]
    assert best_row(rows, "dice") is rows[1]
    assert best_row([{"epoch": 1, "val_dice": 0.5}, {"epoch": 2, "val_dice": 0.5}], "dice")["epoch"] == 1


def test_the_state_of_another_network_is_refused(whole, tmp_path):
    before = files_in(whole).state.read_bytes()
    with pytest.raises(ValueError, match="belongs to another network"):
        train(whole, new_task(width=6), epochs=6)
    assert files_in(whole).state.read_bytes() == before
    damaged = tmp_path / "checkpoints" / "last.ckpt"
    damaged.parent.mkdir()
    damaged.write_bytes(b"no state")
    with pytest.raises(ValueError, match="damaged or foreign"):
        train(tmp_path)


def test_weights_alone_are_no_state(tmp_path):
    path = tmp_path / "weights.ckpt"
    torch.save(Small().state_dict(), path)
    with pytest.raises(ValueError, match="holds no optimizer"):
        read_state(path)


def test_torch_is_left_as_it_was(whole, tmp_path):
    train(tmp_path, epochs=1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_devices_and_precisions():
    assert choose_device("cpu").type == "cpu"
    assert "threads" in device_text(choose_device("cpu"))
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no CUDA device"):
            choose_device("cuda:1")
    assert check_precision("float32", torch.device("cpu")) == ""
    assert "slower" in check_precision("bf16-mixed", torch.device("cpu"))
    with pytest.raises(ValueError, match="needs a GPU"):
        check_precision("16-mixed", torch.device("cpu"))
    with pytest.raises(ValueError, match="did you mean 'float32'"):
        check_precision("float3", torch.device("cpu"))


def test_the_memory_of_a_step_grows_with_the_batch():
    model = Small()
    one, four = (training_memory_mib(model, count, (3, 64, 64)) for count in (1, 4))
    # Input, two maps of four channels (convolution, dropout or ReLU) at the least.
    assert one > 64 * 64 * 4 * (3 + 4 + 4) / 2**20
    assert 3.5 < four / one < 4.0
    assert next(model.parameters()).device.type == "cpu"


def test_trial_steps_are_steps_of_the_training(tmp_path):
    """Where every epoch is that one batch, a rehearsal and a training end at the same weights."""
    batch = next(iter(loader(False)))
    for options in ({}, {"precision": "bf16-mixed", "clip_norm": 1e-3}, {"clip_norm": 1e-3}):
        part = TrainerConfig(epochs=1, device="cpu", precision=options.get("precision", "float32"))
        ends = []
        for steps in (try_steps, train_task):
            task = new_task()
            task.optim = task.optim.model_copy(update={"clip_norm": options.get("clip_norm")})
            if steps is try_steps:
                trial = try_steps(task, batch, part, count=2)
            else:
                folder = tmp_path / repr(options)
                train_task(task, (DataLoader([batch] * 2, batch_size=None), None), files_in(folder), folder, part)
            ends.append(task.model.state_dict())
        assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
        assert trial.loss > 0
        assert trial.seconds > 0
        assert trial.first_seconds > 0
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_learning_rate_is_found_where_the_loss_falls():
    task = new_task()
    task.optim = task.optim.model_copy(update={"kan_lr": 1e-1})
    found = find_learning_rate(task, loader(True), TrainerConfig(device="cpu"), steps=60)
    assert 1e-5 < found.suggested < 0.5
    assert found.suggested_kan == pytest.approx(10 * found.suggested)
    assert len(found.rates) == len(found.losses) <= 60
    assert min(found.losses) < found.losses[0]
    assert "optim.lr=" in found.__rich__()


def test_accumulated_batches_are_one_step():
    batch = next(iter(loader(False)))
    ends = []
    for accumulate in (1, 2):
        task = new_task()
        task.model.body[1], task.model.body[3] = nn.Identity(), nn.Identity()
        try_steps(task, batch, TrainerConfig(device="cpu", accumulate=accumulate), count=2 * accumulate)
        ends.append(task.model.body[0].weight.detach())
    # The same batch twice has the gradient of the batch.
    torch.testing.assert_close(ends[0], ends[1])


def test_mixed_precision_needs_less_memory():
    model = Small(width=32)
    full, mixed = (training_memory_mib(model, 4, (3, 64, 64), kind) for kind in ("float32", "bf16-mixed"))
    assert 0.4 * full < mixed < 0.9 * full
    more = training_memory_mib(model, 8, (3, 64, 64), "bf16-mixed")
    assert 1.7 < more / mixed < 2.0


def test_the_memory_of_a_scan_is_what_its_kernel_keeps_not_all_its_states():
    model = LKMUNet(1, 3, spatial_dims=3, channels=(4, 8))
    held: dict[int, tuple[int, torch.Tensor]] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor):
        place = tensor.untyped_storage()
        if place.data_ptr() not in weights:
            held[place.data_ptr()] = place.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(torch.randn(1, 1, 16, 24, 16))
    del output
    really = sum(size for size, _ in held.values()) / 2**20
    weighs = 4 * sum(4 * p.numel() for p in model.parameters()) / 2**20
    factor = 1.1 if native.ABSENCE is None else 20
    assert 0.9 * really < training_memory_mib(model, 1, (1, 16, 24, 16)) - weighs < factor * really
