"""Runs resume only with their training data, wherever it is stored; batches of one image are refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_picture
from osnet.data.attributes.dataset import AttributeDataset, AttributeSplit
from osnet.data.folder import read_any
from osnet.data.joining import join_training
from osnet.errors import DataError, ModelError, OutputError
from osnet.photos.image_folder import read_photo_folder
from osnet.photos.shards import write_packed
from osnet.synthetic.generate import GeneratedSettings, generate_dataset
from osnet.training.data_list import names_below
from osnet.training.trainer import Trainer
from osnet.types import Crop
from small_runs import ATTRIBUTES, CLASSES, INLINE, REID, write_colours

pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = replace(REID, epochs=1, milestones=(), batch_size=4)
PEOPLE = ("ada", "bob", "cyd")


def write_people(root: Path, names: tuple[str, ...] = PEOPLE) -> Path:
    for number, name in enumerate(names):
        for n in range(3):
            write_picture(root / name / f"{n}.png", 10 * number + n, (16, 32))
    return root


def start_run(data: Path, out: Path) -> None:
    """Write the state of a run before its first step."""
    Trainer(QUICK, read_any(data), out, INLINE).save()


def rename(root: Path) -> None:
    (root / "bob").rename(root / "dan")


def move_one(root: Path) -> None:
    (root / "ada" / "0.png").rename(root / "bob" / "9.png")


def add_one(root: Path) -> None:
    write_picture(root / "cyd" / "extra.png", 99, (16, 32))


def remove_one(root: Path) -> None:
    (root / "cyd" / "2.png").unlink()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (rename, ("3 new (dan/0.png, dan/1.png, dan/2.png)", "3 missing (bob/0.png, bob/1.png, bob/2.png)")),
        (move_one, ("1 new (bob/9.png)", "1 missing (ada/0.png)")),
        (add_one, ("1 new (cyd/extra.png)",)),
        (remove_one, ("1 missing (cyd/2.png)",)),
    ],
)
def test_changed_training_images_are_refused_and_named(
    change: Callable[[Path], None], expected: tuple[str, ...], tmp_path: Path
) -> None:
    data = write_people(tmp_path / "data")
    start_run(data, tmp_path / "run")
    change(data)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(DataError) as caught:
        Trainer(QUICK, read_any(data), tmp_path / "run", INLINE)
    assert str(tmp_path / "run") in str(caught.value)
    for words in expected:
        assert words in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_runs_resume_with_a_copy_of_their_data(tmp_path: Path) -> None:
    start_run(write_people(tmp_path / "data"), tmp_path / "run")
    shutil.copytree(tmp_path / "data", tmp_path / "another" / "disk")
    shutil.rmtree(tmp_path / "data")
    Trainer(QUICK, read_any(tmp_path / "another" / "disk"), tmp_path / "run", INLINE).run()
    assert Trainer(QUICK, read_any(tmp_path / "another" / "disk"), tmp_path / "run", INLINE).progress.epoch == 1


def test_a_finished_run_refuses_other_data(tmp_path: Path) -> None:
    Trainer(QUICK, read_any(write_people(tmp_path / "data")), tmp_path / "run", INLINE).run()
    write_people(tmp_path / "other", ("eve", "fay", "gus"))
    with pytest.raises(DataError, match=r"9 new \(eve/0\.png, eve/1\.png, eve/2\.png, \.\.\.\)"):
        Trainer(QUICK, read_any(tmp_path / "other"), tmp_path / "run", INLINE)


def test_other_images_with_equal_names_are_refused(tmp_path: Path) -> None:
    """Generated people of two seeds have equal file names. A few replaced images cause only a warning."""
    settings = GeneratedSettings(identities=8, cameras=2, images=2, seed=1)
    data = generate_dataset(tmp_path / "a", settings)
    other = generate_dataset(tmp_path / "b", replace(settings, seed=2))
    start_run(data, tmp_path / "run")
    names = [[(c.path.name, c.pid) for c in read_any(folder).train.crops] for folder in (data, other)]
    assert names[0] == names[1]
    with pytest.raises(DataError, match=r"of 16 files .*0001_c1s1"):
        Trainer(QUICK, read_any(other), tmp_path / "run", INLINE)
    replaced = read_any(data).train.crops[3].path
    shutil.copy(next(other.rglob(replaced.name)), replaced)
    with pytest.warns(UserWarning, match=f"1 training images .*{replaced.name}"):
        Trainer(QUICK, read_any(data), tmp_path / "run", INLINE)


def test_other_labels_of_the_same_files_are_refused(tmp_path: Path) -> None:
    """The files are equal, but the identities differ."""
    data = read_any(write_people(tmp_path / "data"))
    Trainer(QUICK, data, tmp_path / "run", INLINE).run()

    def relabelled(crop: Crop) -> Crop:
        return replace(crop, pid=3, identity="cyd") if crop.path.match("ada/0.png") else crop

    other = replace(data, train=replace(data.train, crops=tuple(map(relabelled, data.train.crops))))
    with pytest.raises(DataError, match=r"1 with another label \(ada/0\.png\)"):
        Trainer(QUICK, other, tmp_path / "run", INLINE)
    backwards = replace(data, train=replace(data.train, crops=data.train.crops[::-1]))
    with pytest.raises(DataError, match="another order"):
        Trainer(QUICK, backwards, tmp_path / "run", INLINE)
    (tmp_path / "run" / "data.jsonl").unlink()
    with pytest.raises(DataError, match=r"data\.jsonl"):
        Trainer(QUICK, other, tmp_path / "run", INLINE)
    again = Trainer(QUICK, data, tmp_path / "run", INLINE)
    assert again.progress.epoch == 1
    again.save()  # the list is written again
    with pytest.raises(DataError, match=r"1 with another label \(ada/0\.png\)"):
        Trainer(QUICK, other, tmp_path / "run", INLINE)


def test_held_out_images_are_compared_too(people: Path, tmp_path: Path) -> None:
    recipe, data = replace(REID, validation=0.4), read_any(people)
    trainer = Trainer(recipe, data, tmp_path / "run", INLINE)
    trainer.save()
    held = trainer.plan.query.crops[0].path.name
    left = tuple(crop for crop in data.train.crops if crop.path.name != held)
    with pytest.raises(DataError, match="missing"):
        Trainer(recipe, replace(data, train=replace(data.train, crops=left)), tmp_path / "run", INLINE)


def test_joined_data_sets_are_compared(tmp_path: Path) -> None:
    a, b = write_people(tmp_path / "a"), write_people(tmp_path / "b")
    joined = join_training([read_any(a), read_any(b)])
    trainer = Trainer(QUICK, joined, tmp_path / "run", INLINE)
    trainer.save()
    rows = [json.loads(line)["row"] for line in (tmp_path / "run" / "data.jsonl").open()]
    assert [row[:3] for row in rows if "ada/0" in row[2]] == [["train", 0, "ada/0.png"], ["train", 1, "ada/0.png"]]
    rename(b)
    with pytest.raises(DataError, match=r"3 new \(dan/0\.png"):
        Trainer(QUICK, join_training([read_any(a), read_any(b)]), tmp_path / "run", INLINE)


def test_attribute_labels_are_compared(tmp_path: Path) -> None:
    crops = tuple(Crop(write_picture(tmp_path / "data" / f"{n}.png", n, (16, 32)), -1, 0) for n in range(8))
    labels = np.array([[n % 2, n // 4] for n in range(8)], dtype=np.float32)
    nothing = AttributeSplit("val", (), np.empty((0, 2), np.float32))
    data = AttributeDataset("d", tmp_path, ("hat", "bag"), AttributeSplit("train", crops, labels), nothing,
                            replace(nothing, name="test"))  # fmt: skip
    recipe = replace(ATTRIBUTES, batch_size=4)
    trainer = Trainer(recipe, data, tmp_path / "run", INLINE)
    trainer.save()
    for value in (1 - labels[5, 0], np.nan):
        other = labels.copy()
        other[5, 0] = value
        with pytest.raises(DataError, match=r"1 with another label \(5\.png\)"):
            Trainer(recipe, replace(data, train=AttributeSplit("train", crops, other)), tmp_path / "run", INLINE)
    with pytest.raises(DataError, match=r"another label \(names\)"):
        Trainer(recipe, replace(data, attributes=("bag", "hat")), tmp_path / "run", INLINE)


@pytest.mark.parametrize("in_memory", [True, False])
def test_photographs_are_compared(in_memory: bool, tmp_path: Path) -> None:
    recipe = replace(CLASSES, in_memory=in_memory)
    data = recipe.read([write_colours(tmp_path / "data", 4, 1)])
    trainer = Trainer(recipe, data, tmp_path / "run", INLINE)
    trainer.save()
    if in_memory:
        write_picture(tmp_path / "data" / "red" / "0.png", 3, (8, 8))
        expected = r"1 with another label \(image 8\)"
    else:
        (tmp_path / "data" / "red" / "0.png").rename(tmp_path / "data" / "blue" / "x.png")
        expected = r"1 new \(blue/x\.png\), 1 missing \(red/0\.png\)"
    with pytest.raises(DataError, match=expected):
        Trainer(recipe, recipe.read([tmp_path / "data"]), tmp_path / "run", INLINE)


def test_packed_photographs_are_compared(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    recipe = replace(CLASSES, in_memory=False, packed_readers=0)
    for name, seed in (("a", 1), ("b", 2)):
        write_packed(read_photo_folder(write_colours(tmp_path / name, 4, seed)), tmp_path / f"packed-{name}" / "train")
    trainer = Trainer(recipe, recipe.read([tmp_path / "packed-a"]), tmp_path / "run", INLINE)
    trainer.save()
    Trainer(recipe, recipe.read([tmp_path / "packed-a"]), tmp_path / "run", INLINE)
    with pytest.raises(DataError, match=r"another label \(shard-000000\.tar\)"):
        Trainer(recipe, recipe.read([tmp_path / "packed-b"]), tmp_path / "run", INLINE)


def test_a_run_without_a_data_list_resumes_with_a_warning(tmp_path: Path) -> None:
    data = write_people(tmp_path / "data")
    start_run(data, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    del state["data_sha256"]
    torch.save(state, tmp_path / "run" / "state.pt")
    (tmp_path / "run" / "data.jsonl").unlink()
    with pytest.warns(UserWarning, match="stored no list"):
        Trainer(QUICK, read_any(data), tmp_path / "run", INLINE).run()
    Trainer(QUICK, read_any(data), tmp_path / "run", INLINE)  # now the list exists
    rename(data)
    with pytest.raises(DataError, match="other training data"):
        Trainer(QUICK, read_any(data), tmp_path / "run", INLINE)


def test_names_are_relative_to_the_common_folder(tmp_path: Path) -> None:
    assert names_below([tmp_path / "a" / "1.png", tmp_path / "b" / "c" / "1.png"]) == ["a/1.png", "b/c/1.png"]
    assert names_below([tmp_path / "a" / "1.png"]) == ["1.png"]
    assert names_below([Path("x/1.png"), Path("x/y/2.png")]) == ["1.png", "y/2.png"]
    assert names_below([]) == []


def test_batches_of_one_image_are_refused_before_writing(people: Path, tmp_path: Path) -> None:
    for recipe in (REID, CLASSES, ATTRIBUTES):
        with pytest.raises(ModelError, match="batch_size 1"):
            replace(recipe, batch_size=1)
    colours = write_colours(tmp_path / "colours", 4, 1)
    recipe = replace(CLASSES, batch_size=4, accumulation=4)
    with pytest.raises(DataError, match=r"batch size 4 .* 4 parts .* at least 8"):
        Trainer(recipe, recipe.read([colours]), tmp_path / "run", INLINE)
    squeezed = replace(recipe, model="squeezenet1_0", width=None)  # it has no BatchNorm
    Trainer(squeezed, squeezed.read([colours]), tmp_path / "other", INLINE)
    assert not (tmp_path / "run").exists()


def test_refused_runs_leave_no_folder(people: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than one batch"):
        Trainer(replace(REID, batch_size=64), read_any(people), tmp_path / "a" / "b", INLINE)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("a file")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match="file"):
            Trainer(REID, read_any(people), out, INLINE)


@pytest.mark.parametrize("images", [9, 10, 11, 13])
def test_all_batches_have_the_same_size(images: int) -> None:
    """A last batch of one image would make BatchNorm fail."""
    from osnet.data.samplers import GroupedBatches, RandomBatches

    labels = [n % 3 for n in range(images)]
    for sampler in (RandomBatches(labels, 4), GroupedBatches(labels, 4, 2)):
        sizes = [len(batch) for batch in sampler.batches(0)]
        assert sizes
        assert set(sizes) == {4}
