"""Every network of Table A can be trained for re-identification and for attributes with OSNet's recipes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from osnet import Embedder
from osnet.data.attributes.identities import read_generated_attributes
from osnet.data.folder import read_any
from osnet.embedding.attribute_predictor import AttributePredictor
from osnet.models.counting import TABLE_A
from osnet.models.registry import VARIANTS
from osnet.training.trainer import Trainer
from small_runs import ATTRIBUTES, INLINE, REID

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")
NETWORKS = [row.model for row in TABLE_A]


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("task", ["people", "attributes"])
def test_a_step_updates_every_parameter_and_is_saved(
    task: str, model: str, people_with_attributes: Path, tmp_path: Path
) -> None:
    settings = {"model": model, "width": None, "size_hw": (64, 32), "batch_size": 4, "epochs": 1}
    if task == "people":
        trainer = Trainer(
            replace(REID, **settings, milestones=()), read_any(people_with_attributes), tmp_path / "run", INLINE
        )
    else:
        trainer = Trainer(replace(ATTRIBUTES, **settings), read_generated_attributes(people_with_attributes),
                          tmp_path / "run", INLINE)  # fmt: skip
    before = {name: p.detach().clone() for name, p in trainer.task.named_parameters()}
    batches, _ = trainer.epochs.load(0, 0, 0)
    trainer._set_rate(0.1)
    trainer._step(next(iter(batches)), False)
    unchanged = [name for name, p in trainer.task.named_parameters() if torch.equal(p, before[name])]
    assert unchanged == []
    trainer.plan.save(trainer.task.eval(), tmp_path / "run" / "weights")
    predictor = (Embedder if task == "people" else AttributePredictor)(tmp_path / "run" / "weights", backend="torch")
    seen = predictor.embed_named(people_with_attributes / "query")
    assert seen.vectors.shape[1] == VARIANTS[model].config.embedding_size
    assert (seen.probabilities is None) == (task == "people")
