"""Training runs: resuming bit for bit after interruptions, kills and errors; learning, validation, refused inputs."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import write_picture
from osnet import create_model, load_weights
from osnet.data.augmentation import Augmentation
from osnet.data.folder import read_any
from osnet.data.training_set import hold_out
from osnet.errors import DataError, ImageError, ModelError, TrainingError, WeightsError
from osnet.recipes import RECIPES
from osnet.tasks.reid import ReidLoss
from osnet.training.recipe import learning_rate
from osnet.training.trainer import RunOptions, Trainer
from small_runs import INLINE, REID, assert_equal_runs

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE_KINDS = {
    "cross-entropy": REID,
    "triplet, frozen, EMA, SGD": replace(
        REID, model="osnet_x0_25", width=None, optimizer="sgd", lr=0.02, sampler="identity", images_per_label=2,
        loss=ReidLoss(triplet=1.0, bnneck=True),
        frozen_epochs=1, ema=0.9, warmup_epochs=1, schedule="cosine",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECIPE_KINDS)
def test_interrupted_runs_end_bit_for_bit_the_same(kind: str, people: Path, tmp_path: Path) -> None:
    recipe, data = RECIPE_KINDS[kind], read_any(people)
    Trainer(recipe, data, tmp_path / "whole", INLINE).run()
    interrupted = 0
    for _ in range(40):
        trainer = Trainer(recipe, data, tmp_path / "resumed", INLINE)
        if trainer.progress.epoch == recipe.epochs:
            break
        stop_at = trainer.progress.step + 1 + trainer.progress.step % 3
        step = trainer._step

        def counting(*args, trainer=trainer, stop_at=stop_at, step=step) -> None:
            step(*args)
            if trainer.progress.step + 1 == stop_at:
                # Ctrl-C, or a cluster that ends the job, in the middle of a step
                os.kill(os.getpid(), signal.SIGTERM if stop_at % 2 else signal.SIGINT)

        trainer._step = counting
        try:
            trainer.run()
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted >= 6
    assert_equal_runs(tmp_path / "whole", tmp_path / "resumed")


KILLED = """
import os, signal, sys, traceback
import torch, torch.utils.tensorboard
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_training import Trainer, read_any
from small_runs import REID
from osnet.training.trainer import RunOptions

def make(out):
    return Trainer(REID, read_any(sys.argv[2]), out, RunOptions(workers=0, cpu=True, save_every_s=0))

def train(out, left):
    trainer = make(out)

    def count(frame, event, argument):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if left:
        sys.setprofile(count)
    trainer.run()

def attempt(out, calls):
    child = os.fork()
    if not child:
        try:
            train(out, calls)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

make(sys.argv[3])  # the first one imports much
print(attempt(sys.argv[4], 0))
kills = 0
while (exit_code := attempt(sys.argv[5], 4_000 + 151_003 * kills)) == -signal.SIGKILL:
    kills += 1
print(exit_code, kills)
"""


@pytest.mark.slow
def test_killed_runs_end_bit_for_bit_the_same(people: Path, tmp_path: Path) -> None:
    """SIGKILL at arbitrary function calls: in a batch, a save, an export. Counting calls makes it reproducible.

    The interpreter starts once; each attempt is a fork of it.
    """
    words = [sys.executable, "-c", KILLED, *map(str, (Path(__file__).parent, people))]
    words += [str(tmp_path / name) for name in ("unused", "whole", "resumed")]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    whole, resumed, kills = done.stdout.split()[0], *done.stdout.split()[-2:]
    assert (whole, resumed) == ("0", "0")
    assert int(kills) >= 3
    assert_equal_runs(tmp_path / "whole", tmp_path / "resumed")
    assert load_weights(tmp_path / "resumed" / "weights").card.num_classes == 8


def fail_reading(trainer: Trainer, error: Exception) -> None:
    load = trainer.epochs.load

    def load_failing(*args):
        batches, left = load(*args)

        def broken():
            for batch in batches:
                if trainer.progress.step == 5:
                    raise error
                yield batch

        return broken(), left

    trainer.epochs.load = load_failing


def fail_backward(trainer: Trainer, error: Exception) -> None:
    """Fails after the forward pass, which has updated BatchNorm's statistics."""
    backward = trainer.accelerator.backward

    def broken(loss):
        if trainer.progress.step == 4:
            raise error
        backward(loss)

    trainer.accelerator.backward = broken


def fail_scoring(trainer: Trainer, error: Exception) -> None:
    save = trainer.plan.save

    def broken(task, folder):
        if folder.name == "best":
            raise error
        save(task, folder)

    trainer.plan.save = broken


def fail_logging(trainer: Trainer, error: Exception) -> None:
    add = trainer.log.add

    def broken(row):
        if row["epoch"] == 2:
            raise error
        add(row)

    trainer.log.add = broken


def test_errors_save_the_last_complete_step(people: Path, tmp_path: Path) -> None:
    """No complete step is lost and no partial step is saved, so the resumed run equals one without errors."""
    recipe, data = replace(REID, epochs=2, milestones=(), validation=0.4, evaluate_every=1), read_any(people)
    Trainer(recipe, data, tmp_path / "whole", INLINE).run()
    for fail, error, step in (
        (fail_scoring, OSError(28, "no space left"), 3),
        (fail_backward, torch.OutOfMemoryError("no memory on the device"), 4),
        (fail_reading, MemoryError("no memory for a batch"), 5),
        (fail_reading, RuntimeError("a worker was killed"), 5),
        (fail_logging, OSError(28, "no space left"), 6),
    ):
        trainer = Trainer(recipe, data, tmp_path / "resumed", INLINE)
        fail(trainer, error)
        with pytest.raises(type(error)) as caught:
            trainer.run()
        assert caught.value is error
        assert torch.load(tmp_path / "resumed" / "state.pt", weights_only=True)["progress"]["step"] == step
    Trainer(recipe, data, tmp_path / "resumed", INLINE).run()
    assert_equal_runs(tmp_path / "whole", tmp_path / "resumed")
    best = [json.loads((tmp_path / name / "best" / "card.json").read_text())["sha256"] for name in ("whole", "resumed")]
    assert best[0] == best[1]


def test_an_error_within_an_update_keeps_the_last_saved_state(people: Path, tmp_path: Path) -> None:
    """Only some weights were updated, so that state must not be saved."""
    data = read_any(people)
    trainer = Trainer(replace(REID, epochs=1, milestones=()), data, tmp_path / "run", INLINE)
    trainer.save()
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["task"]
    update = trainer.average.update

    def broken(task: nn.Module) -> None:
        if trainer.progress.step == 3:
            raise RuntimeError("a kernel failed")
        update(task)

    trainer.average.update = broken
    with pytest.raises(RuntimeError, match="a kernel failed"):
        trainer.run()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["progress"]["step"] == 0
    assert all(torch.equal(value, saved[name]) for name, value in state["task"].items())


def test_learning_rates_match_torchs_schedulers() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    for recipe, make in (
        (
            replace(REID, schedule="multi_step", milestones=(2, 5)),
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 5]),
        ),
        (replace(REID, schedule="step", step_epochs=3), lambda o: torch.optim.lr_scheduler.StepLR(o, 3)),
        (replace(REID, schedule="cosine", epochs=9), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9)),
    ):
        optimizer = torch.optim.SGD([parameter], lr=recipe.lr)
        scheduler = make(optimizer)
        for epoch in range(9):
            assert learning_rate(recipe, epoch, 3, 10) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
            optimizer.step()
            scheduler.step()
    warm = replace(REID, schedule="constant", epochs=10, warmup_epochs=2)
    assert [learning_rate(warm, e, b, 10) / warm.lr for e, b in ((0, 0), (1, 0), (2, 0))] == pytest.approx(
        [0.01, 0.505, 1]
    )


def test_frozen_epochs_train_only_the_classifier(people: Path, tmp_path: Path) -> None:
    recipe = replace(REID, epochs=1, frozen_epochs=1)
    torch.manual_seed(recipe.seed)
    start = create_model(recipe.model, width=recipe.width).state_dict()
    trainer = Trainer(recipe, read_any(people), tmp_path / "run", INLINE)
    heads = {key: value.clone() for key, value in trainer.task.classifier.state_dict().items()}
    trainer.run()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["task"]
    assert all(torch.equal(value, state[f"network.{key}"]) for key, value in start.items())  # BatchNorms included
    assert heads
    assert not any(torch.equal(value, state[f"classifier.{key}"]) for key, value in heads.items())
    trained = load_weights(tmp_path / "run" / "weights")
    assert trained.card.preprocessing.size_hw == (32, 16)


@pytest.mark.slow
def test_training_reduces_the_loss(people: Path, tmp_path: Path) -> None:
    settings = {"size_hw": (64, 32), "epochs": 20, "milestones": (), "augmentation": Augmentation()}
    recipe = replace(REID, **settings, loss=ReidLoss(smoothing=0))
    Trainer(recipe, read_any(people), tmp_path / "run", INLINE).run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert max(row["accuracy"] for row in rows) > 0.6 > 0.3 > rows[0]["accuracy"]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.4
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["data"] == {"images": 48, "identities": 8}
    assert list((tmp_path / "run" / "events").iterdir())


def test_the_best_epoch_is_chosen_on_held_out_identities(people: Path, tmp_path: Path) -> None:
    recipe = replace(REID, validation=0.4, evaluate_every=1)
    data = read_any(people)
    train, query, gallery = hold_out(data.train, 0.4, recipe.seed)
    assert not set(train.pids) & set(query.pids)
    assert set(query.pids) == set(gallery.pids)
    assert (len(set(query.pids)), len(query), len(gallery)) == (3, 6, 12)
    trainer = Trainer(recipe, data, tmp_path / "run", INLINE)
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    scores = {row["epoch"]: row["validation_mAP"] for row in rows if "validation_mAP" in row}
    assert set(scores) == {1, 2, 3}
    assert trainer.progress.best_score == max(scores.values())
    assert scores[trainer.progress.best_epoch] == max(scores.values())
    assert load_weights(tmp_path / "run" / "best").card.num_classes == 5
    with pytest.raises(DataError, match="leaves no query with a match"):
        hold_out(replace(data.train, crops=tuple(c for c in data.train.crops if c.camid == 1)), 0.4, 1)


def test_a_loss_that_is_not_finite_stops_the_run(people: Path, tmp_path: Path) -> None:
    recipe = replace(REID, optimizer="sgd", lr=900.0, schedule="constant", epochs=50)
    with pytest.raises(TrainingError) as caught:
        Trainer(recipe, read_any(people), tmp_path / "run", INLINE).run()
    message = str(caught.value)
    assert "at step" in message
    assert message.count(".jpg") == 8
    assert (tmp_path / "run" / "state.pt").exists()


def test_an_image_that_breaks_during_a_run_loses_nothing(people: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(people, tmp_path / "people")
    data = read_any(tmp_path / "people")
    damaged = data.train.crops[17].path
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])  # with a valid header, so that only decoding fails
    with pytest.raises(ImageError, match=damaged.name):
        Trainer(REID, data, tmp_path / "run", INLINE).run()
    damaged.write_bytes(b"broken")
    with pytest.raises(DataError, match=f"1 .*{damaged.name}: not an image"):
        Trainer(REID, data, tmp_path / "run", INLINE)
    damaged.unlink()
    with pytest.raises(DataError, match=f"{damaged.name}: no such file"):
        Trainer(REID, data, tmp_path / "run", INLINE)
    damaged.write_bytes(content)
    Trainer(REID, data, tmp_path / "run", INLINE).run()
    Trainer(REID, data, tmp_path / "undamaged", INLINE).run()
    assert_equal_runs(tmp_path / "run", tmp_path / "undamaged")


def test_a_signal_during_the_last_validation_is_reported(people: Path, tmp_path: Path) -> None:
    """The run is complete then, but it must raise KeyboardInterrupt, so that a script of several runs stops."""
    trainer = Trainer(replace(REID, epochs=1), read_any(people), tmp_path / "run", INLINE)
    publish = trainer._publish

    def interrupted() -> None:
        if trainer.progress.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        publish()

    trainer._publish = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    again = Trainer(replace(REID, epochs=1), read_any(people), tmp_path / "run", INLINE)
    assert (again.progress.epoch, again.progress.published) == (1, 1)
    assert again.run() == tmp_path / "run" / "weights"


def test_runs_do_not_depend_on_workers(people: Path, tmp_path: Path) -> None:
    recipe = replace(REID, epochs=1)
    for name, workers in (("a", 0), ("b", 2)):
        Trainer(recipe, read_any(people), tmp_path / name, RunOptions(workers=workers, cpu=True)).run()
    assert_equal_runs(tmp_path / "a", tmp_path / "b")


def test_invalid_data_and_folders_are_refused(people: Path, tmp_path: Path) -> None:
    data = read_any(people)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match=r"contains thesis\.txt"):
        Trainer(REID, data, tmp_path / "full", INLINE)
    with pytest.raises(DataError, match="fewer than one batch"):
        Trainer(replace(REID, batch_size=64), data, tmp_path / "a", INLINE)
    with pytest.raises(DataError, match="no training images"):
        Trainer(REID, replace(data, train=replace(data.train, crops=())), tmp_path / "b", INLINE)
    write_picture(tmp_path / "one" / "ada" / "1.png")
    with pytest.raises(DataError, match="1 identities"):
        Trainer(REID, read_any(tmp_path / "one"), tmp_path / "c", INLINE)
    trainer = Trainer(REID, data, tmp_path / "d", INLINE)
    trainer.save()
    with pytest.raises(DataError, match="other values of lr;"):
        Trainer(replace(REID, lr=0.5), data, tmp_path / "d", INLINE)
    (tmp_path / "d" / "state.pt").write_bytes(b"broken")
    with pytest.raises(WeightsError, match=r"state\.pt"):
        Trainer(REID, data, tmp_path / "d", INLINE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"model": "osnet_x9"}, "unknown model"),
        ({"loss": ReidLoss(triplet=1.0)}, "sampler 'identity'"),
        ({"frozen_epochs": 9}, "frozen_epochs 9 .* 0 to 3"),
        ({"validation": 0.9}, "validation"),
    ],
)
def test_invalid_recipes_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        replace(REID, **change)


def test_recipes_are_documented_and_have_published_values() -> None:
    assert len(RECIPES) >= 12
    for name, make in RECIPES.items():
        recipe = make()
        text = make.__doc__ or ""
        assert recipe.name == name
        for word in ("Command:", "Source:", "Expect:", f"osnet train {name} "):
            assert word in text
        assert getattr(recipe, "validation", 0) == 0
    scratch = RECIPES["market1501-osnet-x1-0-scratch"]()
    assert (scratch.lr, scratch.epochs, scratch.milestones, scratch.optimizer) == (0.065, 350, (150, 225, 300), "sgd")
    small = RECIPES["market1501-osnet-x0-25"]()
    assert (small.lr, small.epochs, small.step_epochs, small.batch_size) == (0.003, 180, 80, 128)
    assert "Not a recipe of the paper" in (RECIPES["market1501-osnet-x1-0-strong"].__doc__ or "")


@pytest.mark.slow
def test_fine_tuning_real_weights_on_real_crops(people_mini: Path, msmt17_pth: Path, tmp_path: Path) -> None:
    """Fine-tuning as in the paper, at a low rate; stopped within an epoch and resumed."""
    from osnet import evaluate

    data = read_any(people_mini)
    recipe = replace(
        RECIPES["market1501-osnet-x0-25"](), name="people-mini", pretrained=str(msmt17_pth), epochs=3, frozen_epochs=1,
        backbone_lr_factor=0.02, batch_size=25, schedule="cosine",
    )  # fmt: skip
    Trainer(recipe, data, tmp_path / "whole", INLINE).run()

    def stop(batches, _total: int, _label: str):
        for number, batch in enumerate(batches):
            if number == 3 and trainer.progress.epoch == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    trainer = Trainer(recipe, data, tmp_path / "resumed", INLINE)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(stop)
    assert (trainer.progress.epoch, trainer.progress.batch) == (2, 4)
    Trainer(recipe, data, tmp_path / "resumed", INLINE).run()
    assert_equal_runs(tmp_path / "whole", tmp_path / "resumed")
    rows = [json.loads(line) for line in (tmp_path / "resumed" / "metrics.jsonl").open()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    scores = evaluate(tmp_path / "resumed" / "weights", people_mini).scores
    assert scores["mAP"] is not None
    assert scores["mAP"] > 0.97, "fine-tuning must not reduce the score on this easy data set"
