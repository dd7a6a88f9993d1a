"""What a user sees while a network is trained."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from kanscan.training.progress import ProgressReport, duration, epoch_line, nothing_learned


def row(epoch, dice=0.5, seconds=2.0):
    return {"epoch": epoch, "train_loss": 0.9, "val_loss": None if dice is None else 0.8, "val_dice": dice} | {
        "seconds": seconds
    }


def checkpoints(*rows):
    return SimpleNamespace(rows=list(rows), select_by="dice")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3750, "1:02:30")])
def test_lengths_of_time_read_like_a_clock(seconds, text):
    assert duration(seconds) == text


def test_a_line_tells_figures_the_best_epoch_and_what_is_left():
    line = epoch_line(checkpoints(row(1, 0.6, seconds=30), row(2, 0.4)), 12)
    assert line.startswith("epoch 2/12  loss 0.9000  val loss 0.8000  val Dice 0.4000 (best so far: epoch 1)")
    # Two epochs are too few for the first, slow one to be recognized as such; later ones decide.
    assert epoch_line(checkpoints(row(1, seconds=30), row(2), row(3)), 13).endswith("2.0 s, 0:20 left")


def test_an_epoch_without_validation_has_no_score():
    assert "val" not in epoch_line(checkpoints(row(1, None)), 3)


def trainer(epoch=0):
    return SimpleNamespace(
        is_global_zero=True, num_training_batches=3, num_val_batches=[1], max_epochs=2, current_epoch=epoch
    )


def test_on_a_terminal_there_is_a_bar_with_loss_and_dice():
    text = io.StringIO()
    report = ProgressReport(checkpoints(row(1)), Console(file=text, force_terminal=True, width=120))
    report.on_train_start(trainer(1), None)
    for _ in range(3):
        report.on_train_batch_end(trainer(1), None, {"loss": 0.25}, None, 0)
    report.on_validation_batch_end(trainer(1), None)
    report.on_train_epoch_end(trainer(1), None)
    assert report.bar.tasks[0].percentage == 100
    report.on_train_end(trainer(1), None)
    shown = text.getvalue()
    assert "epoch 2/2" in shown
    assert "loss 0.2500  val Dice 0.5000" in shown
    assert report.bar is None


def test_a_bar_is_closed_when_something_goes_wrong():
    report = ProgressReport(checkpoints(), Console(file=io.StringIO(), force_terminal=True))
    report.on_train_start(trainer(), None)
    report.on_exception(trainer(), None, ValueError("no"))
    assert report.bar is None


def test_without_a_terminal_there_is_a_line_an_epoch():
    text = io.StringIO()
    report = ProgressReport(checkpoints(row(1)), Console(file=text))
    report.on_train_start(trainer(), None)
    report.on_train_batch_end(trainer(), None, {"loss": 0.25}, None, 0)
    report.on_train_epoch_end(trainer(), None)
    assert text.getvalue().splitlines() == [epoch_line(report.checkpoints, 2)]


def test_a_training_that_learns_nothing_is_told_once_with_what_to_try():
    zeros = [row(epoch, 0.0) for epoch in range(1, 16)]
    told = [len(zeros[:n]) for n in range(1, 16) if nothing_learned(zeros[:n])]
    assert told == [10]
    assert "loss.class_weights" in nothing_learned(zeros[:10])
    assert nothing_learned([*zeros[:9], row(10, 0.01)]) == ""
    assert nothing_learned([row(epoch, None) for epoch in range(1, 16)]) == ""
