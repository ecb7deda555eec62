"""Several processes in one folder, killed writers, and losses of half precision: nothing is lost or silently wrong."""

import json
import multiprocessing
import os
import subprocess
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osnet.data.attributes.samples import join_labels
from osnet.data.folder import read_any
from osnet.errors import DataError, ModelError, OutputError
from osnet.features.embedding_files import embed_files
from osnet.losses import batch_hard_triplet
from osnet.models.config import OSNetConfig
from osnet.models.heads import AttributeHead, switch_attributes
from osnet.models.osnet import OSNet
from osnet.photos.image_folder import PhotoSamples, read_photo_folder
from osnet.photos.photo_augmentation import PhotoAugmentation
from osnet.photos.shards import read_packed_index, read_shard, write_packed
from osnet.tasks.reid import ReidLoss
from osnet.training import trainer as training
from osnet.training.trainer import RunOptions, Trainer
from osnet.types import DISTRACTOR_PID, Crop, Preprocessing, ReidDataset, Split
from osnet.weights import checkpoint
from osnet.weights.card import Card, read_card
from osnet.weights.checkpoint import load_weights, save_weights
from osnet.weights.factory import create_model
from small_runs import INLINE, REID, assert_equal_runs


def network() -> OSNet:
    return OSNet(OSNetConfig(width=0.25))


@pytest.mark.parametrize("pause_after", ["weights-", "card.json"])
def test_two_savers_of_one_folder_leave_complete_weights(tmp_path: Path, monkeypatch, pause_after: str) -> None:
    """The second save starts while the first one has written, but not yet renamed, a file."""
    folder, real, threads = tmp_path / "w", checkpoint.written_aside, []
    lock, waits = checkpoint.one_writer, threading.Event()
    errors: list[Exception] = []

    def one_writer(path: Path) -> AbstractContextManager[None]:
        if threads:
            waits.set()
        return lock(path)

    def save_second() -> None:
        try:
            save_weights(network(), folder)
        except Exception as error:
            errors.append(error)

    class Pausing:
        def __init__(self, path: Path) -> None:
            self.path, self.inner = path, real(path)

        def __enter__(self) -> Path:
            return self.inner.__enter__()

        def __exit__(self, *exc: object) -> None:
            if not threads and self.path.name.startswith(pause_after):
                threads.append(threading.Thread(target=save_second))
                threads[0].start()
                while threads[0].is_alive() and not waits.wait(0.05):
                    pass  # a save without a lock is done then
            self.inner.__exit__(*exc)

    monkeypatch.setattr(checkpoint, "written_aside", Pausing)
    monkeypatch.setattr("osnet.files.written_aside", Pausing)
    monkeypatch.setattr(checkpoint, "one_writer", one_writer)
    save_weights(network(), folder)
    threads[0].join()
    assert errors == []
    load_weights(folder)
    assert len(list(folder.iterdir())) == 2


def test_weights_that_are_replaced_while_they_are_read(tmp_path: Path, monkeypatch) -> None:
    new, real = network(), checkpoint.sha256_file
    save_weights(network(), tmp_path / "w")

    def replaced(path: Path) -> str:
        monkeypatch.setattr(checkpoint, "sha256_file", real)
        save_weights(new, tmp_path / "w")
        return real(path)

    monkeypatch.setattr(checkpoint, "sha256_file", replaced)
    assert torch.equal(load_weights(tmp_path / "w").conv5.conv.weight, new.conv5.conv.weight)


def test_switching_attributes_while_weights_are_replaced(tmp_path: Path, monkeypatch) -> None:
    """The card that is switched is that of the new weights."""
    folder, head = tmp_path / "w", AttributeHead(512, ("hat", "bag"))
    save_weights(network(), folder, attributes=head)

    def read_then_replace(path: Path) -> tuple[Card, str]:
        monkeypatch.setattr("osnet.models.heads.read_card", read_card)
        found = read_card(path)
        save_weights(network(), folder, attributes=head)
        return found

    monkeypatch.setattr("osnet.models.heads.read_card", read_then_replace)
    switch_attributes([folder], off=["hat"])
    assert load_weights(folder).card.attributes_off == ("hat",)


def test_a_second_process_in_a_runs_folder_changes_nothing(people: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(training, "LOCK_TIMEOUT_S", 0.05)
    data, out = read_any(people), tmp_path / "run"
    recipe = replace(REID, validation=0.3, evaluate_every=1, epochs=2)
    Trainer(recipe, data, tmp_path / "alone", INLINE).run()
    first, early = Trainer(recipe, data, out, INLINE), Trainer(recipe, data, out, INLINE)
    step, refused = first._step, []

    def start_second(*args) -> None:
        step(*args)
        if first.progress.epoch == 1 and not refused:
            with pytest.raises(OutputError):
                Trainer(recipe, data, out, INLINE).run()
            refused.append(first.progress.step)

    monkeypatch.setattr(first, "_step", start_second)
    first.run()
    assert refused
    with pytest.raises(OutputError):  # it would train again from the state that it read
        early.run()
    assert_equal_runs(tmp_path / "alone", out)


def test_a_signal_to_the_workers_too_stops_between_batches(people: Path, tmp_path: Path, monkeypatch) -> None:
    """A cluster sends SIGTERM to all processes of a job."""
    data, recipe = read_any(people), replace(REID, epochs=1)
    trainer = Trainer(recipe, data, tmp_path / "run", RunOptions(workers=2, cpu=True))
    step = trainer._step

    def stopping(*args) -> None:
        step(*args)
        if trainer.progress.step == 2:  # both workers have loaded a batch
            workers = [str(child.pid) for child in multiprocessing.active_children()]
            assert len(workers) == 2
            trainer._stopping.set()
            subprocess.run(["kill", "-TERM", *workers], check=True)  # not sent by their parent
            for pid in workers:
                os.waitid(os.P_PID, int(pid), os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(trainer, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    Trainer(recipe, data, tmp_path / "run", INLINE).run()
    Trainer(recipe, data, tmp_path / "alone", INLINE).run()
    assert_equal_runs(tmp_path / "alone", tmp_path / "run")


def test_weights_without_a_run_are_not_replaced(people: Path, tmp_path: Path) -> None:
    save_weights(network(), tmp_path / "mine" / "weights")
    before = read_card(tmp_path / "mine" / "weights")
    with pytest.raises(DataError, match="weights"):
        Trainer(REID, read_any(people), tmp_path / "mine", INLINE)
    assert read_card(tmp_path / "mine" / "weights") == before


def test_a_damaged_row_of_the_log_does_not_prevent_resuming(people: Path, tmp_path: Path) -> None:
    data, recipe = read_any(people), replace(REID, epochs=1)
    Trainer(recipe, data, tmp_path / "run", INLINE).run()
    log = tmp_path / "run" / "metrics.jsonl"
    good = log.read_bytes()
    log.write_bytes(good + b"\0\0\0\n")  # as after a power failure
    Trainer(recipe, data, tmp_path / "run", INLINE).run()
    assert log.read_bytes() == good


def test_a_leftover_of_a_killed_start_does_not_prevent_resuming(tmp_path: Path, tiny_weights: Path) -> None:
    from osnet import Embedder

    Image.new("RGB", (16, 32), "red").save(tmp_path / "a.png")
    (tmp_path / "out.npz.partial").mkdir()
    (tmp_path / "out.npz.partial" / ".writing-7-7-abcd-head.json").write_text("{")
    embedder = Embedder(tiny_weights, device="cpu", backend="torch")
    assert len(embed_files(embedder, [tmp_path / "a.png"], tmp_path / "out.npz")) == 1
    assert not (tmp_path / "out.npz.partial").exists()


def test_triplet_loss_under_autocast() -> None:
    """Embeddings that are close, compared with their length. The loss is that of float32."""
    generator = torch.Generator().manual_seed(0)
    common = torch.rand(1, 512, generator=generator)
    embeddings = common + 0.05 * torch.randn(16, 512, generator=generator)
    pids = torch.arange(16) // 4
    for margin in (0.3, None):
        expected = batch_hard_triplet(embeddings, pids, margin)
        with torch.autocast("cpu", torch.bfloat16):
            found = batch_hard_triplet(embeddings, pids, margin)
        assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_triplet_loss_of_one_identity_is_refused(people: Path, tmp_path: Path) -> None:
    """On a GPU the loss would be 0 in every batch."""
    loss = ReidLoss(triplet=1.0)
    with pytest.raises(ModelError, match="8 images"):
        replace(REID, sampler="identity", images_per_label=8, loss=loss)
    plan = replace(REID, sampler="identity", images_per_label=4, loss=loss).plan(read_any(people))
    plan.make_sampler(0, 1)
    with pytest.raises(DataError, match="at least 16"):
        plan.make_sampler(0, 2)


def test_distractors_are_no_identity_in_joint_training() -> None:
    crops = tuple(Crop(Path(f"{pid}_{n}.jpg"), pid, 1) for pid in (DISTRACTOR_PID, 5, 7) for n in range(2))
    with pytest.raises(DataError, match=r"0_0\.jpg"):
        join_labels([ReidDataset("people", Path("x"), Split("train", crops))])


def test_images_of_16_bits_are_refused_before_training(people: Path, tmp_path: Path) -> None:
    data = read_any(people)
    path = tmp_path / "deep.png"
    Image.fromarray(np.zeros((32, 16), np.uint16)).save(path)
    crops = (*data.train.crops, replace(data.train.crops[0], path=path))
    with pytest.raises(DataError, match=r"deep\.png"):
        Trainer(REID, replace(data, train=Split("train", crops)), tmp_path / "run", INLINE)


def test_images_with_odd_suffixes_are_packed(tmp_path: Path) -> None:
    """Images are recognised by their content. ``.cls`` is the suffix of the labels in a shard."""
    for name in ("cat/none", "cat/a.cls", "dog/b.__key__", "dog/c.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(tmp_path / "data" / name, "PNG")
    photos = read_photo_folder(tmp_path / "data")
    write_packed(photos, tmp_path / "packed")
    index = read_packed_index(tmp_path / "packed")
    found = sorted((content, label) for shard in index.shards for _, _, content, label in read_shard(index, shard))
    assert found == sorted((path.read_bytes(), label) for path, label in zip(photos.paths, photos.labels, strict=True))


def test_damaged_photographs_do_not_warn_while_training(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "1.jpg"
        Image.fromarray(pixels).save(path)
        content = bytearray(path.read_bytes())
        content[-900:-300] = bytes(600)
        path.write_bytes(content)
    PhotoSamples(read_photo_folder(tmp_path), PhotoAugmentation(), Preprocessing(), seed=0)[0, 0, 0]
    assert not recwarn.list


def test_a_card_with_another_number_of_classes(tmp_path: Path) -> None:
    """The classifier has the outputs that were asked for."""
    save_weights(network(), tmp_path / "w", classifier={"weight": torch.rand(3, 512), "bias": torch.rand(3)})
    card = json.loads((tmp_path / "w" / "card.json").read_text())
    (tmp_path / "w" / "card.json").write_text(json.dumps(card | {"num_classes": 5}))
    for asked in (3, 5):
        made = create_model("osnet_x0_25", tmp_path / "w", num_classes=asked)
        assert made.classifier.out_features == asked
