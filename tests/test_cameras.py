"""Data sets without camera labels: validation works, and ``data check`` reports what needs cameras."""

from dataclasses import replace
from pathlib import Path

import pytest

from conftest import write_picture
from osnet.data.check import check_dataset
from osnet.data.folder import read_any
from osnet.data.training_set import hold_out
from osnet.errors import DataError
from osnet.training.trainer import Trainer
from osnet.types import Crop, Split
from small_runs import INLINE, REID


def split_of(*crops: tuple[int, int]) -> Split:
    """(pid, camid) each; unknown cameras are all different."""
    return Split("train", tuple(Crop(Path(f"{n}.jpg"), pid, camid - n if camid < 0 else camid, str(pid))
                                for n, (pid, camid) in enumerate(crops)))  # fmt: skip


def names(split: Split) -> list[str]:
    return [crop.path.stem for crop in split.crops]


def test_one_image_of_each_held_out_person_is_the_query() -> None:
    people = split_of(*[(pid, -1) for pid in (1, 2, 3, 4) for _ in range(3)])
    train, query, gallery = hold_out(people, 0.5, seed=0)
    assert len(set(query.pids)) == len(query) == 2
    assert sorted(gallery.pids) == sorted(query.pids * 2)
    assert not set(train.pids) & set(query.pids)
    assert len(train) == 6
    for pid in query.pids:
        first = next(crop for crop in people.crops if crop.pid == pid)
        assert first in query.crops


def test_camera_labels_are_used_where_present() -> None:
    """Person 1: two cameras and an image without a camera; 2: a single image; 3: no camera."""
    people = split_of((1, 1), (1, 1), (1, 2), (1, -1), (2, -1), (3, -1), (3, -1))
    _, query, gallery = hold_out(people, 1.0, seed=0)
    assert names(query) == ["0", "2", "5"]
    assert names(gallery) == ["1", "3", "4", "6"]


def test_people_with_camera_labels_give_one_query_per_camera() -> None:
    people = split_of(*[(pid, camid) for pid in (1, 2, 3, 4) for camid in (1, 2) for _ in range(2)])
    _, query, gallery = hold_out(people, 0.5, seed=0)
    assert len(query) == len(gallery) == 4
    assert sorted(zip(query.pids, query.camids, strict=True)) == sorted(zip(gallery.pids, gallery.camids, strict=True))


@pytest.mark.parametrize("reserved", [-1, 0])
@pytest.mark.parametrize("seed", range(4))
def test_junk_and_distractors_are_not_held_out(reserved: int, seed: int) -> None:
    """Whether they are drawn or not: as queries they would stop the run at its first validation."""
    people = split_of(*[(pid, camid) for pid in (reserved, 1, 2, 3) for camid in (1, 2) for _ in range(2)])
    with pytest.raises(DataError, match=r"0\.jpg"):
        hold_out(people, 0.5, seed)


@pytest.mark.parametrize("camid", [-1, 1])
def test_impossible_validation_does_not_suggest_holding_out_more(camid: int) -> None:
    """One image of each person; or one camera for all."""
    crops = [(pid, camid) for pid in range(1, 9) for _ in range(1 if camid < 0 else 3)]
    with pytest.raises(DataError, match="no identity has images in two cameras") as caught:
        hold_out(split_of(*crops), 0.5, seed=0)
    assert "hold out more" not in str(caught.value)
    with pytest.raises(DataError, match="hold out more"):  # one person has two cameras, but was not drawn
        hold_out(split_of(*[(pid, 1) for pid in range(1, 400)], (400, 1), (400, 2)), 0.01, seed=1)


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    for pid in range(4):
        for n in range(4):
            write_picture(tmp_path / "d" / f"p{pid}" / f"{n}.jpg", 10 * pid + n)
    return tmp_path / "d"


def test_a_run_validates_without_cameras(unlabelled: Path, tmp_path: Path) -> None:
    small = replace(REID, epochs=1, batch_size=4, milestones=(), schedule="constant", validation=0.5)
    plan = small.plan(read_any(unlabelled))
    assert (len(plan.query), len(plan.gallery)) == (2, 6)
    Trainer(small, read_any(unlabelled), tmp_path / "run", INLINE).run()
    assert (tmp_path / "run" / "best").is_dir()


def test_check_reports_missing_and_single_cameras(unlabelled: Path, tmp_path: Path) -> None:
    report = check_dataset(read_any(unlabelled), decode=False)
    (problem,) = (problem for problem in report.problems if problem.kind == "no camera")
    assert problem.severity == "mind"
    assert len(problem.names) == 16
    assert "--validation" in str(problem)
    assert report.ok
    for pid in ("a", "b"):
        for n in range(3):
            write_picture(tmp_path / "one" / pid / "cam" / f"{n}.jpg", n)
    kinds = {problem.kind for problem in check_dataset(read_any(tmp_path / "one"), decode=False).problems}
    assert "one camera" in kinds
    assert "no camera" not in kinds
