"""Training attributes, alone and with identities: mixed batches, resuming, two processes, recipes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_picture
from osnet import create_model
from osnet.cli import main
from osnet.data.attributes.identities import read_generated_attributes
from osnet.data.attributes.samples import join_labels
from osnet.data.augmentation import Augmentation
from osnet.data.folder import read_any
from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.errors import DataError
from osnet.losses import smoothed_cross_entropy
from osnet.recipes import RECIPES
from osnet.recipes.attributes_pa100k import both_osnet_x1_0, pa100k_osnet_x1_0
from osnet.tasks.attribute_task import AttributeLoss, AttributeTask, score_split
from osnet.tasks.joint import JointLoss, JointTask
from osnet.training.trainer import Trainer
from osnet.weights.card import read_card
from small_runs import (
    ATTRIBUTES,
    BOTH,
    INLINE,
    assert_equal_runs,
    assert_same_gradients,
    join_as_rank,
    run_in_pieces,
    save_gradients,
    spawn_two,
)

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")


def joint_task(num_classes: int = 4, attributes: int = 3) -> JointTask:
    torch.manual_seed(0)
    names = [f"a{i}" for i in range(attributes)]
    ratios = np.linspace(0.1, 0.9, attributes)
    return JointTask(
        create_model("osnet_x0_25"), num_classes, names, ratios, AttributeLoss(), JointLoss(attributes=0.7)
    )


def mixed_batch() -> dict[str, torch.Tensor]:
    """8 images: two with both labels, three with an identity, two with attributes, one with a single attribute."""
    torch.manual_seed(3)
    attributes = torch.tensor([[1, 0, 1], [0, 0, 1], *[[NAN] * 3] * 3, [1, 1, 0], [0, 1, 0], [NAN, 1, NAN]])
    return {
        "image": torch.rand(8, 3, 32, 16), "attributes": attributes, "label": torch.tensor([0, 1, 2, 3, 3, -1, -1, -1]),
    }  # fmt: skip


def test_joint_loss_on_a_mixed_batch_matches_a_slow_loop() -> None:
    """The loop runs over the images that have each label."""
    task, batch = joint_task().eval(), mixed_batch()
    scalars = task(batch)
    with torch.no_grad():
        embeddings = task.network(batch["image"])
        identities = smoothed_cross_entropy(task.classifier(embeddings[:5]), batch["label"][:5])
        logits, labels = task.head(embeddings), batch["attributes"]
        total = torch.zeros(())
        ratios = torch.linspace(0.1, 0.9, 3)
        for i, a in [(i, a) for i in range(8) for a in range(3) if not labels[i, a].isnan()]:
            s, y = torch.sigmoid(logits[i, a]), labels[i, a]
            total -= torch.exp(-ratios[a]) * (y * s.log() + (1 - y) * (1 - s).log())
    assert scalars["loss"].item() == pytest.approx(float(identities + 0.7 * total / 13), rel=1e-5)
    assert float(scalars["cross_entropy"]) == pytest.approx(float(identities), rel=1e-5)


@pytest.mark.parametrize("missing", ["label", "attributes"])
def test_missing_labels_leave_their_head_without_gradient(missing: str) -> None:
    task, batch = joint_task(), mixed_batch()
    batch[missing] = torch.full_like(batch[missing], -1 if missing == "label" else NAN)
    loss = task(batch)["loss"]
    assert torch.isfinite(loss)
    loss.backward()
    idle, trained = (task.classifier, task.head.linear) if missing == "label" else (task.head.linear, task.classifier)
    assert idle.weight.grad is not None  # zero, not None: DDP waits for every gradient
    assert float(idle.weight.grad.abs().max()) == 0
    assert trained.weight.grad is not None
    assert float(trained.weight.grad.abs().max()) > 0


def test_frozen_trains_only_the_heads() -> None:
    task = joint_task().train()
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    task(mixed_batch(), frozen=True)["loss"].backward()
    assert all(p.grad is None for p in task.network.parameters())
    assert task.head.linear.weight.grad is not None
    assert all(torch.equal(value, before[key]) for key, value in task.network.state_dict().items())


def one_of_two(rank: int, folder: str) -> None:
    import accelerate

    join_as_rank(rank, folder)
    accelerator = accelerate.Accelerator(cpu=True)
    task = accelerator.prepare(joint_task()).eval()
    mine = slice(rank * 4, rank * 4 + 4)
    accelerator.backward(task({name: value[mine] for name, value in mixed_batch().items()})["loss"])
    save_gradients(rank, folder, task)


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    """The halves have different numbers of labels of each kind, so averaging the two means would be wrong."""
    got = spawn_two(one_of_two, tmp_path)
    task = joint_task().eval()
    task(mixed_batch())["loss"].backward()
    assert_same_gradients(got, {name: p.grad for name, p in task.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("kind", ["attributes", "both"])
def test_interrupted_runs_end_bit_for_bit_the_same(kind: str, people_with_attributes: Path, tmp_path: Path) -> None:
    generated = read_generated_attributes(people_with_attributes)
    recipe, data = (ATTRIBUTES, generated) if kind == "attributes" else (BOTH, join_labels([generated]))
    Trainer(recipe, data, tmp_path / "whole", INLINE).run()
    run_in_pieces(recipe, data, tmp_path / "resumed", (1, 3))
    assert_equal_runs(tmp_path / "whole", tmp_path / "resumed")
    cards = [read_card(tmp_path / name / "weights")[0] for name in ("whole", "resumed")]
    assert cards[0] == cards[1]


def test_data_without_the_needed_labels_is_refused(people_with_attributes: Path, tmp_path: Path) -> None:
    data = read_generated_attributes(people_with_attributes)
    with pytest.raises(DataError, match="no training images"):
        Trainer(ATTRIBUTES, replace(data, train=data.train.take([])), tmp_path / "a", INLINE)
    with pytest.raises(DataError, match="no training images"):
        Trainer(BOTH, join_labels([read_any(people_with_attributes)]), tmp_path / "b", INLINE)
    no_identities = replace(data.train, crops=tuple(replace(crop, pid=-1) for crop in data.train.crops))
    with pytest.raises(DataError, match=r"0 training identities.*pa100k-"):
        Trainer(BOTH, replace(data, train=no_identities), tmp_path / "c", INLINE)
    with pytest.raises(DataError, match="one data set; got 2 folders"):
        ATTRIBUTES.read([people_with_attributes, people_with_attributes])
    no_positives = replace(data.val, labels=np.zeros_like(data.val.labels))
    trainer = Trainer(ATTRIBUTES, replace(data, val=no_positives), tmp_path / "d", INLINE)
    assert trainer.plan.validated_on is None  # no positives to validate on: the last epoch is used


@pytest.mark.slow
def test_training_fits_the_attributes(people_with_attributes: Path, tmp_path: Path) -> None:
    recipe = replace(
        ATTRIBUTES, epochs=40, size_hw=(48, 24), optimizer="adamw", lr=0.005, schedule="cosine", evaluate_every=40,
        augmentation=Augmentation(flip=0), loss=AttributeLoss("per_label"),
    )  # fmt: skip
    data = read_generated_attributes(people_with_attributes)
    out = Trainer(recipe, data, tmp_path / "run", INLINE).run()
    scores, _ = score_split(AttributePredictor(out), data.train, data.attributes)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert rows[-2]["loss"] < 0.5 * rows[0]["loss"]
    assert scores.f1 > 0.9
    assert scores.mean_accuracy is not None
    assert scores.mean_accuracy > 0.8


def test_recipe_matches_the_papers_supplement() -> None:
    recipe = pa100k_osnet_x1_0()
    assert (recipe.optimizer, recipe.momentum, recipe.lr, recipe.epochs) == ("sgd", 0.9, 0.065, 50)
    assert (recipe.schedule, recipe.milestones, recipe.decay) == ("multi_step", (30, 40), 0.1)
    assert (recipe.batch_size, recipe.weight_decay, recipe.size_hw) == (32, 5e-4, (256, 128))
    assert (recipe.augmentation.crop, recipe.augmentation.flip) == (0.5, 0.5)
    assert (recipe.loss.form, recipe.pooling) == ("per_attribute", "max")
    assert both_osnet_x1_0().pooling == "avg"
    widths = {RECIPES[f"pa100k-osnet-{width}"]().model for width in ("x1-0", "x0-75", "x0-5", "x0-25")}
    assert widths == {"osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25"}
    task = AttributeTask(create_model("osnet_x0_25", pooling="max"), ["a", "b"], [0.5, 0.0], AttributeLoss())
    assert task.label_weights.tolist() == [pytest.approx([np.exp(-0.5), 1.0])] * 2


def test_train_command_reports_mismatches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A CSV that lists a missing image is an error; with --skip-mismatches it is reported and training runs."""
    for i in range(10):
        write_picture(tmp_path / "crops" / f"{i}.jpg", i)
    rows = [f"{i}.jpg,{'val' if i > 7 else 'train'},{i % 2}" for i in range(11)]
    (tmp_path / "crops" / "attributes.csv").write_text("\n".join(["path,split,hat", *rows]))
    run = tmp_path / "run"
    command = [
        *("train", "pa100k-osnet-x0-25", "--data", str(tmp_path / "crops"), "--out", str(run), "--cpu"),
        *("--epochs", "1", "--size-hw", "32", "16", "--batch-size", "8", "--loss.form", "per_label"),
    ]
    with pytest.raises(SystemExit):
        main(command)
    assert "attributes.csv line 12: 10.jpg is not in" in capsys.readouterr().err
    main([*command, "--skip-mismatches"])
    out = capsys.readouterr().out
    assert "left out: attributes.csv line 12: 10.jpg is not in" in out
    assert "% mA on the validation part" in out
    assert read_card(run / "best")[0].architecture.pooling == "max"
    with pytest.raises(SystemExit):
        main([*command, "--combine-all"])
    assert "and combine_all" in capsys.readouterr().err
