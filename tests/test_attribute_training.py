"""Training attributes, alone and with identities: mixed batches, resuming, two processes, heads in checkpoints."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_picture
from osnet import Embedder, create_model, load_weights
from osnet.cli import main
from osnet.data.attributes.identities import read_generated_attributes
from osnet.data.attributes.samples import join_labels
from osnet.data.augmentation import Augmentation
from osnet.data.folder import read_any
from osnet.data.synthetic import GeneratedSettings, generate_dataset
from osnet.errors import DataError, WeightsError
from osnet.figures.attributes import Described, describe_lines, draw_attribute_sheet
from osnet.inference.attributes import AttributePredictor
from osnet.losses import smoothed_cross_entropy
from osnet.models.card import Card, read_card
from osnet.models.heads import AttributeHead, switch_attributes
from osnet.models.weights import read_checkpoint, save_weights
from osnet.recipes import RECIPES
from osnet.recipes.pa100k import both_osnet_x1_0, pa100k_osnet_x1_0
from osnet.tasks.attributes import AttributeLoss, AttributeRecipe, AttributeTask, score_split
from osnet.tasks.joint import JointLoss, JointRecipe, JointTask
from osnet.training.engine import RunOptions, Trainer

pytest.importorskip("accelerate")

SMALL = {"model": "osnet_x0_25", "size_hw": (32, 16), "batch_size": 8, "augmentation": Augmentation(crop=0.5, flip=0.5)}
TINY = AttributeRecipe("tiny", epochs=2, optimizer="sgd", lr=0.02, schedule="constant", **SMALL)
BOTH = JointRecipe("both", epochs=2, lr=0.002, schedule="constant", **SMALL)
INLINE = RunOptions(workers=0, cpu=True)
NAN = float("nan")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 training images of 4 people, 16 for validation, 32 for test."""
    return generate_dataset(tmp_path_factory.mktemp("t") / "people", GeneratedSettings(16, 2, 2, 9))


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both heads, trained for a moment."""
    out = tmp_path_factory.mktemp("r") / "run"
    Trainer(BOTH, join_labels([read_generated_attributes(people)]), out, INLINE).run()
    return out


@pytest.fixture(autouse=True)
def _same_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def state_of(out: Path) -> dict[str, torch.Tensor]:
    state = torch.load(out / "state.pt", weights_only=True)
    flat = {f"task.{k}": v for k, v in state["task"].items()}
    for number, slots in state["optimizer"]["state"].items():
        flat |= {f"{number}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    return flat


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


def test_a_mixed_batch_is_the_sum_of_its_parts() -> None:
    """The loss against one written out over the images that have each label."""
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
def test_a_batch_without_one_kind_of_label_teaches_the_other_head_alone(missing: str) -> None:
    task, batch = joint_task(), mixed_batch()
    batch[missing] = torch.full_like(batch[missing], -1 if missing == "label" else NAN)
    loss = task(batch)["loss"]
    assert torch.isfinite(loss)
    loss.backward()
    silent, taught = (task.classifier, task.head.linear) if missing == "label" else (task.head.linear, task.classifier)
    assert silent.weight.grad is not None  # zero, but there: several processes wait for it
    assert float(silent.weight.grad.abs().max()) == 0
    assert taught.weight.grad is not None
    assert float(taught.weight.grad.abs().max()) > 0


def test_frozen_trains_the_heads_alone() -> None:
    task = joint_task().train()
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    task(mixed_batch(), frozen=True)["loss"].backward()
    assert all(p.grad is None for p in task.network.parameters())
    assert task.head.linear.weight.grad is not None
    assert all(torch.equal(value, before[key]) for key, value in task.network.state_dict().items())


def one_of_two(rank: int, folder: str) -> None:
    import accelerate

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = (Path(folder) / "port").read_text()
    torch.set_num_threads(1)
    accelerator = accelerate.Accelerator(cpu=True)
    task = accelerator.prepare(joint_task()).eval()
    mine = slice(rank * 4, rank * 4 + 4)
    accelerator.backward(task({name: value[mine] for name, value in mixed_batch().items()})["loss"])
    if rank == 0:
        grads = {k.removeprefix("module."): p.grad for k, p in task.named_parameters() if p.grad is not None}
        torch.save(grads, Path(folder) / "grads.pt")
    accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    """The halves have different numbers of labels of either kind, so means of means would be wrong."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    torch.multiprocessing.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    got = torch.load(tmp_path / "grads.pt", weights_only=True)
    task = joint_task().eval()
    task(mixed_batch())["loss"].backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None
        assert float((got[name] - parameter.grad).abs().max()) <= 1e-5 * max(1.0, float(parameter.grad.abs().max())), (
            name
        )


@pytest.mark.parametrize("kind", ["attributes", "both"])
def test_stopped_anywhere_it_ends_bit_for_bit_the_same(kind: str, people: Path, tmp_path: Path) -> None:
    generated = read_generated_attributes(people)
    recipe, data = (TINY, generated) if kind == "attributes" else (BOTH, join_labels([generated]))
    Trainer(recipe, data, tmp_path / "whole", INLINE).run()
    for stop_at in (1, 3, 99):
        trainer = Trainer(recipe, data, tmp_path / "broken", INLINE)
        step = trainer._step

        def counting(*args, trainer=trainer, stop_at=stop_at, step=step) -> None:
            step(*args)
            if trainer.progress.step + 1 == stop_at:
                trainer._stopping.set()

        trainer._step = counting
        if stop_at == 99:
            trainer.run()
        else:
            with pytest.raises(KeyboardInterrupt):
                trainer.run()
    x, y = state_of(tmp_path / "whole"), state_of(tmp_path / "broken")
    assert x.keys() == y.keys()
    assert [key for key in x if not torch.equal(x[key], y[key])] == []
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert rows[0] == rows[1]
    cards = [read_card(tmp_path / name / "weights")[0] for name in ("whole", "broken")]
    assert cards[0] == cards[1]


def test_a_run_leaves_both_heads_and_the_best_epoch_by_validation(run: Path, people: Path) -> None:
    card = read_card(run / "weights")[0]
    data = read_generated_attributes(people)
    assert (card.num_classes, card.attributes) == (4, data.attributes)
    assert len(card.attribute_thresholds) == 26
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    scores = {row["epoch"]: row["validation_mA"] for row in rows if "validation_mA" in row}
    assert set(scores) == {1, 2}
    best = max(scores, key=lambda epoch: (scores[epoch], -epoch))
    predictor = AttributePredictor(run / "best")
    found, probabilities = score_split(predictor, data.val, data.attributes)
    assert found.mean_accuracy == pytest.approx(scores[best])
    from osnet.metrics.attributes import choose_thresholds

    chosen = choose_thresholds(probabilities, data.val.labels, data.attributes)
    assert predictor.head.thresholds == pytest.approx(tuple(chosen), abs=1e-6)
    facts = json.loads((run / "recipe.json").read_text())
    assert facts["kind"] == "JointRecipe"
    assert (facts["data"]["images"], facts["data"]["identities"]) == (16, 4)


def test_one_pass_gives_embedding_and_attributes(run: Path, people: Path, monkeypatch) -> None:
    paths = [crop.path for crop in read_generated_attributes(people).test.crops[:5]]
    predictor = AttributePredictor(run, batch_size=2)
    seen = predictor.predict(paths)
    np.testing.assert_array_equal(seen.vectors, Embedder(run / "weights", batch_size=2).embed(paths))
    checkpoint = read_checkpoint(run)
    network, head = checkpoint.build(), checkpoint.build_attribute_head()
    assert head is not None
    raw = Embedder(network, normalize=False).embed(paths)
    expected = 1 / (1 + np.exp(-(raw @ head.linear.weight.detach().numpy().T + head.linear.bias.detach().numpy())))
    np.testing.assert_allclose(seen.probabilities, expected, atol=1e-5)
    assert seen.held(0) == [n for n, p, t in zip(seen.attributes, expected[0], seen.thresholds, strict=True) if p >= t]
    calls = []
    run_network = predictor._run
    monkeypatch.setattr(predictor, "_run", lambda pixels: (calls.append(len(pixels)), run_network(pixels))[1])
    predictor.predict(paths)
    assert calls == [2, 2, 1]
    assert predictor.predict([]).probabilities.shape == (0, 26)
    with pytest.warns(UserWarning, match="have no vector"):
        predictor.embed([paths[0], "nothing.jpg"], on_error="skip")
    skipped = predictor.predict([paths[0], "nothing.jpg", paths[1]], on_error="skip")
    assert (len(skipped), skipped.probabilities.shape, len(skipped.failures)) == (2, (2, 26), 1)
    array = np.zeros((40, 20, 3), np.uint8)
    assert predictor.predict(array, channels="bgr").probabilities.shape == (1, 26)


def test_what_is_switched_off_is_not_computed(run: Path, people: Path, tmp_path: Path) -> None:
    import shutil

    weights = shutil.copytree(run / "weights", tmp_path / "weights")
    path = read_generated_attributes(people).test.paths[0]
    before = AttributePredictor(weights).predict(path)
    card = switch_attributes(weights, off=["Female", "AgeOver60", "Age18-60", "AgeLess18"])
    assert card.attributes_off == ("Female", "AgeOver60", "Age18-60", "AgeLess18")
    predictor = AttributePredictor(weights)
    assert predictor.head.linear.weight.shape == (22, 512)  # there is no row that could say it
    after = predictor.predict(path)
    assert after.attributes == before.attributes[4:]
    np.testing.assert_allclose(after.probabilities, before.probabilities[:, 4:], atol=1e-6)
    assert len(switch_attributes(weights, on=["Female"]).attributes_off) == 3
    assert load_weights(weights).card is not None  # embedding goes on as ever
    with pytest.raises(WeightsError, match=r"names no attribute Shoes; it names Female, AgeOver60"):
        switch_attributes(weights, off=["Shoes"])
    switch_attributes(weights, off=before.attributes)
    with pytest.raises(WeightsError, match="switches all of it off"):
        AttributePredictor(weights)


def test_heads_in_checkpoints(tiny_network, tmp_path: Path) -> None:
    torch.manual_seed(1)
    head = AttributeHead(512, ["hat", "bag"], [0.3, 0.6])
    card = save_weights(tiny_network, tmp_path / "a", attributes=head)
    assert (card.attributes, card.attribute_thresholds) == (("hat", "bag"), (0.3, 0.6))
    back = read_checkpoint(tmp_path / "a").build_attribute_head()
    assert back is not None
    assert torch.equal(back.linear.weight, head.linear.weight)
    assert back.digests() == head.digests()
    assert back.without(["hat"]).digests() == head.digests()[1:]
    plain = save_weights(tiny_network, tmp_path / "b")
    assert "attribute" not in (tmp_path / "b" / "card.json").read_text()  # as before there were heads
    assert plain.attributes == ()
    with pytest.raises(WeightsError, match="says no attributes"):
        AttributePredictor(tmp_path / "b")
    content = json.loads((tmp_path / "a" / "card.json").read_text())
    content["attributes"] = ["hat", "bag", "scarf"]
    content["attribute_thresholds"] = []
    (tmp_path / "a" / "card.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="names 3 attributes"):
        read_checkpoint(tmp_path / "a")
    content["attributes_off"] = ["shoes"]
    (tmp_path / "a" / "card.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="attributes_off names shoes"):
        read_card(tmp_path / "a")
    for wrong in ({"attributes": ("a", "a")}, {"attributes": ("a",), "attribute_thresholds": (0.1, 0.2)}):
        with pytest.raises(ValueError, match=r"twice|2 thresholds for 1"):
            Card(tiny_network.config, **wrong)


def test_what_cannot_be_trained(people: Path, tmp_path: Path) -> None:
    data = read_generated_attributes(people)
    with pytest.raises(DataError, match="no training images with attributes"):
        Trainer(TINY, replace(data, train=data.train.take([])), tmp_path / "a", INLINE)
    with pytest.raises(DataError, match="no training images with attributes"):
        Trainer(BOTH, join_labels([read_any(people)]), tmp_path / "b", INLINE)
    nobody = replace(data.train, crops=tuple(replace(crop, pid=-1) for crop in data.train.crops))
    with pytest.raises(DataError, match=r"0 identities.*pa100k-"):
        Trainer(BOTH, replace(data, train=nobody), tmp_path / "c", INLINE)
    with pytest.raises(DataError, match="one data set; got 2 folders"):
        TINY.read([people, people])
    unseen = replace(data.val, labels=np.zeros_like(data.val.labels))
    trainer = Trainer(TINY, replace(data, val=unseen), tmp_path / "d", INLINE)
    assert trainer.plan.validated_on is None  # nothing to choose by: the last epoch counts


@pytest.mark.slow
def test_it_learns(people: Path, tmp_path: Path) -> None:
    recipe = replace(
        TINY, epochs=40, size_hw=(48, 24), optimizer="adamw", lr=0.005, schedule="cosine", evaluate_every=40,
        augmentation=Augmentation(flip=0), loss=AttributeLoss("per_label"),
    )  # fmt: skip
    data = read_generated_attributes(people)
    out = Trainer(recipe, data, tmp_path / "run", INLINE).run()
    scores, _ = score_split(AttributePredictor(out), data.train, data.attributes)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert rows[-2]["loss"] < 0.5 * rows[0]["loss"]
    assert scores.f1 > 0.9
    assert scores.mean_accuracy is not None
    assert scores.mean_accuracy > 0.8


def test_the_supplements_recipe() -> None:
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


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A CSV with one image too few: said, and no hindrance if the user chose so."""
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


def test_the_sheet_tells_right_from_wrong(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.jpg")
    shown = Described(path, ("hat", "bag"), ("bag", "boots"), heading="0.9")
    assert [line for line, _ in describe_lines(shown)] == ["0.9", "= bag", "+ hat", "- boots"]
    assert [line for line, _ in describe_lines(Described(path, ("hat",)))] == ["hat"]
    sheet = draw_attribute_sheet([shown, Described(tmp_path / "gone.jpg", ("hat",))] * 3, "title")
    assert sheet.size[1] > 2 * 192
    assert len(sheet.getcolors(1 << 20)) > 100
