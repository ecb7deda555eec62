"""The results of an attribute training run, its heads and thresholds, and switching attributes off."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_picture
from osnet import Embedder, load_weights
from osnet.cli import main
from osnet.data.attributes.identities import read_generated_attributes
from osnet.data.attributes.samples import join_labels
from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.errors import WeightsError
from osnet.figures.attribute_sheet import SheetCrop, describe_lines, draw_attribute_sheet
from osnet.models.heads import AttributeHead, switch_attributes
from osnet.tasks.attribute_task import score_split
from osnet.training.trainer import Trainer
from osnet.weights.card import Card, read_card
from osnet.weights.checkpoint import read_checkpoint, save_weights
from small_runs import ATTRIBUTES, BOTH, INLINE, run_in_pieces

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_saves_both_heads_and_the_best_epoch_by_validation(joint_run: Path, people_with_attributes: Path) -> None:
    card = read_card(joint_run / "weights")[0]
    data = read_generated_attributes(people_with_attributes)
    assert (card.num_classes, card.attributes) == (4, data.attributes)
    assert len(card.attribute_thresholds) == 26
    rows = [json.loads(line) for line in (joint_run / "metrics.jsonl").open()]
    scores = {row["epoch"]: row["validation_mA"] for row in rows if "validation_mA" in row}
    assert set(scores) == {1, 2}
    best = max(scores, key=lambda epoch: (scores[epoch], -epoch))
    predictor = AttributePredictor(joint_run / "best")
    found, probabilities = score_split(predictor, data.val, data.attributes)
    assert found.mean_accuracy == pytest.approx(scores[best])
    from osnet.metrics.attribute_metrics import choose_thresholds

    chosen = choose_thresholds(probabilities, data.val.labels, data.attributes)
    assert predictor.head.thresholds == pytest.approx(tuple(chosen), abs=1e-6)
    facts = json.loads((joint_run / "recipe.json").read_text())
    assert facts["kind"] == "JointRecipe"
    assert (facts["data"]["images"], facts["data"]["identities"]) == (16, 4)


def test_one_pass_gives_embedding_and_attributes(joint_run: Path, people_with_attributes: Path, monkeypatch) -> None:
    paths = [crop.path for crop in read_generated_attributes(people_with_attributes).test.crops[:5]]
    predictor = AttributePredictor(joint_run, batch_size=2)
    seen = predictor.predict(paths)
    np.testing.assert_array_equal(seen.vectors, Embedder(joint_run / "weights", batch_size=2).embed(paths))
    checkpoint = read_checkpoint(joint_run)
    network, head = checkpoint.build(), checkpoint.build_attribute_head()
    assert head is not None
    raw = Embedder(network, normalize=False).embed(paths)
    expected = 1 / (1 + np.exp(-(raw @ head.linear.weight.detach().numpy().T + head.linear.bias.detach().numpy())))
    np.testing.assert_allclose(seen.probabilities, expected, atol=1e-5)
    assert seen.positive(0) == [
        n for n, p, t in zip(seen.attributes, expected[0], seen.thresholds, strict=True) if p >= t
    ]
    calls = []
    run_network = predictor._run
    monkeypatch.setattr(predictor, "_run", lambda pixels: (calls.append(len(pixels)), run_network(pixels))[1])
    predictor.predict(paths)
    assert calls == [2, 2, 1]
    assert predictor.predict([]).probabilities.shape == (0, 26)
    with pytest.warns(UserWarning, match="input"):
        predictor.embed([paths[0], "nothing.jpg"], on_error="skip")
    skipped = predictor.predict([paths[0], "nothing.jpg", paths[1]], on_error="skip")
    assert (len(skipped), skipped.probabilities.shape, len(skipped.failures)) == (2, (2, 26), 1)
    array = np.zeros((40, 20, 3), np.uint8)
    assert predictor.predict(array, channels="bgr").probabilities.shape == (1, 26)


def test_attributes_switched_off_are_absent(joint_run: Path, people_with_attributes: Path, tmp_path: Path) -> None:
    weights = shutil.copytree(joint_run / "weights", tmp_path / "weights")
    path = read_generated_attributes(people_with_attributes).test.paths[0]
    before = AttributePredictor(weights).predict(path)
    ((folder, (card, changed)),) = switch_attributes([weights], off=before.attributes[:4]).items()
    assert (folder, changed) == (weights, True)
    assert card.attributes_off == ("Female", "AgeOver60", "Age18-60", "AgeLess18")
    assert switch_attributes([weights], off=["Female"])[weights] == (card, False)
    predictor = AttributePredictor(weights)
    assert predictor.head.linear.weight.shape == (22, 512)  # the rows of the others are removed
    after = predictor.predict(path)
    assert after.attributes == before.attributes[4:]
    np.testing.assert_allclose(after.probabilities, before.probabilities[:, 4:], atol=1e-6)
    assert len(switch_attributes([weights], on=["Female"])[weights][0].attributes_off) == 3
    assert load_weights(weights).card is not None  # the weights still load for embedding
    with pytest.raises(WeightsError, match=r"unknown attribute Shoes; choose from Female, AgeOver60"):
        switch_attributes([weights], off=["Hat", "Shoes"])
    with pytest.raises(WeightsError, match="Hat are in both off and on"):
        switch_attributes([weights], off=["Hat"], on=["Hat"])
    assert "Hat" not in read_card(weights)[0].attributes_off
    switch_attributes([weights], off=before.attributes)
    with pytest.raises(WeightsError, match="switched off"):
        AttributePredictor(weights)


def test_switching_a_run_switches_all_its_weights(
    joint_run: Path, people_with_attributes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command switches best and weights; after a switch of best alone, the command's output names weights."""
    photo = read_generated_attributes(people_with_attributes).test.paths[0]
    copy = shutil.copytree(joint_run, tmp_path / "run")
    main(["attributes", "switch", str(copy), "--off", "Female"])
    out = capsys.readouterr().out
    for name in ("best", "weights"):
        assert f"changed    {copy / name / 'card.json'}: off: Female" in out
        assert "Female" not in AttributePredictor(copy / name).predict(photo).attributes
    assert "osnet attributes switch GALLERY" in out
    assert "osnet attributes switch GALLERY --off Female" in out
    main(["attributes", "switch", str(copy / "best"), "--off", "Hat"])
    out = capsys.readouterr().out
    assert f"not asked  {copy / 'weights' / 'card.json'}: off: Female; of the same run" in out
    main(["attributes", "switch", str(copy), "--off", "Hat", "--on", "Female"])
    out = capsys.readouterr().out
    assert f"changed    {copy / 'weights' / 'card.json'}: off: Hat" in out
    with pytest.raises(WeightsError, match="not a checkpoint folder"):
        switch_attributes([tmp_path])
    assert "Hat" in AttributePredictor(joint_run).attributes  # the original run is unchanged


@pytest.mark.parametrize("kind", ["attributes", "both"])
def test_resuming_keeps_attributes_switched_off(kind: str, people_with_attributes: Path, tmp_path: Path) -> None:
    """Interrupt in the second epoch, switch attributes off in one checkpoint, and train to the end."""
    generated = read_generated_attributes(people_with_attributes)
    recipe, data = (ATTRIBUTES, generated) if kind == "attributes" else (BOTH, join_labels([generated]))
    run_in_pieces(recipe, data, tmp_path / "run", (3,), finish=False)
    for old in (tmp_path / "run").glob("best*"):
        shutil.rmtree(old)  # so that best is written for the first time after resuming
    switch_attributes([tmp_path / "run" / "weights"], off=["Female", "Hat"])
    trainer = Trainer(recipe, data, tmp_path / "run", INLINE)
    assert trainer.progress.epoch == 1
    trainer.progress.best_score = -1.0
    trainer.run()
    for name in ("best", "weights"):
        card, _ = read_card(tmp_path / "run" / name)
        assert (len(card.attributes), card.attributes_off) == (26, ("Female", "Hat"))
        assert "Female" not in AttributePredictor(tmp_path / "run" / name).attributes


def test_checkpoints_hold_attribute_heads(tiny_network, tmp_path: Path) -> None:
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
    assert "attribute" not in (tmp_path / "b" / "card.json").read_text()  # cards without heads keep their old format
    assert plain.attributes == ()
    with pytest.raises(WeightsError, match="attributes"):
        AttributePredictor(tmp_path / "b")
    content = json.loads((tmp_path / "a" / "card.json").read_text())
    content["attributes"] = ["hat", "bag", "scarf"]
    content["attribute_thresholds"] = []
    (tmp_path / "a" / "card.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="3 attributes"):
        read_checkpoint(tmp_path / "a")
    content["attributes_off"] = ["shoes"]
    (tmp_path / "a" / "card.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"attributes_off .*shoes"):
        read_card(tmp_path / "a")
    for wrong in ({"attributes": ("a", "a")}, {"attributes": ("a",), "attribute_thresholds": (0.1, 0.2)}):
        with pytest.raises(ValueError, match=r"a, a|2 .*thresholds.* 1"):
            Card(tiny_network.config, **wrong)


def test_the_attribute_sheet_marks_right_and_wrong_predictions(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.jpg")
    shown = SheetCrop(path, ("hat", "bag"), ("bag", "boots"), heading="0.9")
    assert [line for line, _ in describe_lines(shown)] == ["0.9", "= bag", "+ hat", "- boots"]
    assert [line for line, _ in describe_lines(SheetCrop(path, ("hat",)))] == ["hat"]
    sheet = draw_attribute_sheet([shown, SheetCrop(tmp_path / "gone.jpg", ("hat",))] * 3, "title")
    assert sheet.size[1] > 2 * 192
    assert len(sheet.getcolors(1 << 20)) > 100
