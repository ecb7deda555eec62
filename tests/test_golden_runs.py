"""Training steps against torchreid 0.2.5, and the optimiser, average and loss against cases worked by hand.

``fixtures/make_torchreid_training.py`` wrote torchreid's values: three steps for each optimiser and loss, with a lower
rate for the network than for the classifier, strong weight decay, and a rate that drops before the third step.
"""

import importlib.util
import json
import math
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import FIXTURES, write_picture
from osnet.data.augmentation import Augmentation
from osnet.losses import LABEL_SMOOTHING, MARGIN
from osnet.models.registry import VARIANTS
from osnet.tasks.reid import ReidLoss, ReidPlan, ReidRecipe, ReidTask
from osnet.training.epochs import Batch
from osnet.training.optimizer import Average, make_optimizer
from osnet.training.trainer import Trainer
from osnet.types import Crop, ReidDataset, Split
from osnet.weights.torchreid import torchreid_names
from small_runs import INLINE

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")


def load_script(name: str) -> Any:
    """Import a script of fixtures/; it defines the weights, batches and settings of both sides."""
    spec = importlib.util.spec_from_file_location(name, FIXTURES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


load_script("make_torchreid_outputs")
SETUP = load_script("make_torchreid_training")
PEER = json.loads((FIXTURES / "torchreid_training.json").read_text())
WITHIN = {"softmax": 1e-5, "triplet": 1e-4}
CONFIG = VARIANTS["osnet_x0_25"].config
TO_OURS = {theirs: f"network.{ours}" for ours, theirs in torchreid_names(CONFIG).items()}
TO_OURS |= {"classifier.weight": "classifier.weight", "classifier.bias": "classifier.bias"}


class FixedBatches:
    """One batch per epoch, the same as torchreid's."""

    tied = False

    def load(self, epoch: int, first_batch: int, workers: int) -> tuple[Iterable[Batch], int]:
        images, labels = SETUP.batch(epoch)
        return [{"image": images, "label": labels}][first_batch:], 1 - first_batch

    def name_batch(self, epoch: int, batch: int) -> list[str]:
        return [f"step {epoch}"]


class GoldenPlan(ReidPlan):
    """Starts from torchreid's weights, in float64; records the trained and the saved weights of each epoch."""

    def __init__(self, recipe: ReidRecipe, dataset: ReidDataset) -> None:
        super().__init__(recipe, dataset)
        state = self.task.state_dict()
        first = SETUP.start({theirs: state[ours] for theirs, ours in TO_OURS.items()})
        self.task.load_state_dict({TO_OURS[theirs]: value for theirs, value in first.items()})
        self.task.double()
        self.trained = [{key: value.clone() for key, value in self.task.state_dict().items()}]
        self.saved: list[dict[str, Tensor]] = []

    def make_epochs(self, rank: int, num_ranks: int, device: torch.device) -> FixedBatches:
        return FixedBatches()

    def save(self, task: ReidTask, folder: Path) -> None:
        self.trained.append({key: value.clone() for key, value in self.task.state_dict().items()})
        self.saved.append({key: value.clone() for key, value in task.state_dict().items()})


class GoldenRecipe(ReidRecipe):
    def plan(self, dataset: ReidDataset) -> GoldenPlan:
        return GoldenPlan(self, dataset)


def train(optimizer: str, loss: ReidLoss, folder: Path, **settings: Any) -> tuple[GoldenPlan, list[float]]:
    """Train for three steps; returns the plan and the logged losses."""
    crops = tuple(
        Crop(write_picture(folder / f"{n}.png", n, (8, 16)), label + 1, 1, str(label))
        for n, label in enumerate(SETUP.LABELS)
    )
    recipe = GoldenRecipe(
        "golden", model="osnet_x0_25", size_hw=SETUP.SIZE_HW, epochs=SETUP.STEPS, batch_size=SETUP.BATCH,
        optimizer=optimizer, lr=SETUP.LR[optimizer], weight_decay=SETUP.WEIGHT_DECAY, momentum=SETUP.MOMENTUM,
        schedule="step", step_epochs=SETUP.FALLS_AFTER, backbone_lr_factor=SETUP.BACKBONE_FACTOR,
        augmentation=Augmentation(), sampler="identity", images_per_label=2, loss=loss, **settings,
    )  # fmt: skip
    trainer = Trainer(recipe, ReidDataset("golden", folder, train=Split("train", crops)), folder / "run", INLINE)
    trainer.save = lambda: None  # type: ignore[method-assign]  # writing its file takes longer than the steps
    trainer.run()
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return trainer.plan, [row["loss"] for row in rows]


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "amsgrad", "adamw"])
def test_three_steps_match_torchreid(optimizer: str, loss: str, tmp_path: Path) -> None:
    """Compares losses and, of some tensors, the total change and a few values.

    torchreid computes the triplet loss's distances in float32, hence its larger tolerance.
    """
    plan, losses = train(optimizer, ReidLoss(triplet=float(loss == "triplet")), tmp_path)
    peer = PEER[f"{optimizer} {loss}"]
    within = WITHIN[loss]
    assert losses == pytest.approx(peer["losses"], rel=within)
    before, after = plan.trained[0], plan.trained[-1]
    got = SETUP.summarize(*({theirs: state[ours] for theirs, ours in TO_OURS.items()} for state in (before, after)))
    assert got.keys() == peer["tensors"].keys()
    for name, expected in peer["tensors"].items():
        assert expected["change"] > 1e-6
        assert got[name]["change"] == pytest.approx(expected["change"], rel=within), name
        np.testing.assert_allclose(
            got[name]["values"], expected["values"], rtol=0, atol=within * expected["change"], err_msg=name
        )


def test_torchreid_runs_differ_by_more_than_the_tolerance() -> None:
    """Otherwise the test above could not distinguish one optimiser or loss from another.

    AMSGrad and Adam differ too little in three steps; ``test_parameter_groups`` distinguishes them.
    """
    changes = {run: tensors["tensors"]["conv5.bn.weight"]["change"] for run, tensors in PEER.items()}
    assert len(changes) == 8
    for one, other in combinations(changes, 2):
        if one.replace("amsgrad", "adam") != other.replace("amsgrad", "adam"):
            assert abs(changes[one] / changes[other] - 1) > 10 * max(WITHIN.values()), (one, other)


class TwoLayers(nn.Module):
    """A task with two weights, a frozen parameter and an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1, bias=False)
        self.classifier = nn.Linear(1, 1, bias=False)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.set(1.0, 2.0)

    def set(self, network: float, classifier: float) -> None:
        with torch.no_grad():
            self.network.weight.fill_(network)
            self.classifier.weight.fill_(classifier)


def recipe(**settings: Any) -> ReidRecipe:
    return ReidRecipe("hand", model="osnet_x0_25", **settings)


def test_parameter_groups() -> None:
    """Only the network has the rate factor; all have rate and weight decay; frozen parameters are in no group."""
    task: Any = TwoLayers()
    for name, kind in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)):
        made = make_optimizer(recipe(optimizer=name, lr=0.3, weight_decay=0.02, backbone_lr_factor=0.25), task)
        assert type(made) is kind
        network, head = made.param_groups
        assert (network["factor"], head["factor"]) == (0.25, 1.0)
        assert [*network["params"], *head["params"]] == [task.network.weight, task.classifier.weight]
        assert [(group["lr"], group["weight_decay"]) for group in made.param_groups] == [(0.3, 0.02)] * 2
        assert not network.get("amsgrad")
    amsgrad = make_optimizer(recipe(optimizer="amsgrad", momentum=0.8), task)
    assert [(group["amsgrad"], group["betas"]) for group in amsgrad.param_groups] == [(True, (0.8, 0.999))] * 2


def test_a_step_of_sgd_by_hand() -> None:
    """w - rate * factor * (gradient + decay * w): 1 - 0.01 * (3 + 0.5) and 2 - 0.1 * (5 + 1)."""
    task: Any = TwoLayers()
    optimizer = make_optimizer(recipe(optimizer="sgd", weight_decay=0.5, backbone_lr_factor=0.1), task)
    task.network.weight.grad, task.classifier.weight.grad = torch.full((1, 1), 3.0), torch.full((1, 1), 5.0)
    Trainer._set_rate(SimpleNamespace(optimizer=optimizer), 0.1)  # type: ignore[arg-type]
    optimizer.step()
    assert task.network.weight.item() == pytest.approx(0.965)
    assert task.classifier.weight.item() == pytest.approx(1.4)


def test_an_average_by_hand() -> None:
    """Decay 0.9: 0.9 * 1 + 0.1 * 5 = 1.4, then 0.9 * 1.4 + 0.1 * 0 = 1.26. Integer buffers are copied."""
    task: Any = TwoLayers()
    average = Average(task, 0.9)
    for network, count, expected in ((5.0, 7, 1.4), (0.0, 8, 1.26)):
        task.set(network, 2.0)
        task.count.fill_(count)
        average.update(task)
        averaged: Any = average.apply_to(task)
        assert averaged.network.weight.item() == pytest.approx(expected)
        assert averaged.classifier.weight.item() == pytest.approx(2.0)
        assert int(averaged.count) == count
        assert not averaged.training
        assert task.network.weight.item() == network  # the task keeps its own weights
    nothing = Average(task, 0.0)
    nothing.update(task)
    assert nothing.apply_to(task).network.weight.item() == 0.0


def test_saved_weights_are_the_average(tmp_path: Path) -> None:
    plan, _ = train("sgd", ReidLoss(), tmp_path, ema=0.75)
    key = "classifier.weight"
    average = plan.trained[0][key]
    for trained, saved in zip(plan.trained[1:], plan.saved, strict=True):
        average = 0.75 * average + 0.25 * trained[key]
        torch.testing.assert_close(saved[key], average, rtol=1e-12, atol=0)
        assert float((average - trained[key]).abs().max()) > 1e-4


class Embeddings(nn.Module):
    """A network that returns these rows for any input."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows, dtype=torch.float64))
        self.config = SimpleNamespace(embedding_size=self.rows.shape[1], neck=False)

    def forward(self, _images: Tensor) -> Tensor:
        return self.rows


def softmax_loss(logits: np.ndarray, labels: list[int], smoothing: float) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        total -= float((target * (row - math.log(np.exp(row).sum()))).sum())
    return total / len(logits)


def test_bnneck_loss_by_hand() -> None:
    """The classifier gets embeddings normalised by the batch's mean and deviation; the triplet loss does not."""
    rows, labels = [[0.0, 0.0], [3.0, 4.0], [3.0, 0.0], [4.0, 0.0]], [0, 0, 1, 1]
    task = ReidTask(Embeddings(rows), 2, ReidLoss(bnneck=True, triplet=1.0)).double()  # type: ignore[arg-type]
    assert isinstance(task.neck, nn.BatchNorm1d)
    assert task.classifier.bias is None
    assert not task.neck.bias.requires_grad
    with torch.no_grad():
        task.classifier.weight.copy_(torch.tensor([[1.0, -0.5], [0.25, 2.0]]))
        task.neck.weight.copy_(torch.tensor([2.0, 0.5]))
    batch = {"image": torch.zeros(4, 3, 1, 1), "label": torch.tensor(labels)}
    scalars = task.train()(batch)
    x = np.array(rows)
    normal = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * np.array([2.0, 0.5])
    expected = softmax_loss(normal @ np.array([[1.0, -0.5], [0.25, 2.0]]).T, labels, 0.1)
    assert float(scalars["cross_entropy"]) == pytest.approx(expected, rel=1e-6)
    # For each anchor: distance to the other image of the person minus distance to the closest other person.
    gaps = [5 - 3, 5 - 4, 1 - 3, 1 - 4]
    assert float(scalars["triplet"]) == pytest.approx(np.mean([max(0.0, gap + 0.3) for gap in gaps]), rel=1e-6)
    assert float(scalars["loss"]) == pytest.approx(float(scalars["cross_entropy"] + scalars["triplet"]))
    plain = ReidTask(Embeddings(rows), 2, ReidLoss())  # type: ignore[arg-type]
    assert isinstance(plain.neck, nn.Identity)
    assert plain.classifier.bias is not None


def test_loss_constants_are_the_papers() -> None:
    """Label smoothing 0.1 (Torchreid's default and the paper's), margin 0.3 (Torchreid's default)."""
    assert (LABEL_SMOOTHING, MARGIN) == (SETUP.SMOOTHING, SETUP.MARGIN) == (0.1, 0.3)
    assert (ReidLoss().smoothing, ReidLoss().margin, ReidLoss().cross_entropy, ReidLoss().triplet) == (0.1, 0.3, 1, 0)
