"""Batches: who is in them, who is not, the same ones for the same seed, and shared between processes."""

from collections import Counter

import numpy as np
import pytest

from osnet.data.augmentation import Augmentation
from osnet.data.samplers import GroupedBatches, RandomBatches
from osnet.data.transforms import normalize, resize_image, to_fractions
from osnet.errors import DataError
from osnet.types import Preprocessing

COUNTS = [1, 2, 3, 4, 5, 6, 8, 9, 12, 16] * 2
LABELS = [label for label, count in enumerate(COUNTS) for _ in range(count)]


def test_random_batches_take_every_image_once() -> None:
    batches = RandomBatches(LABELS, 8).batches(0)
    assert [len(batch) for batch in batches] == [8] * (len(LABELS) // 8)
    seen = [index for batch in batches for index in batch]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("per_label", [2, 4])
def test_p_by_k(per_label: int) -> None:
    sampler = GroupedBatches(LABELS, 16, per_label, seed=3)
    batches = sampler.batches(1)
    for batch in batches:
        people = Counter(LABELS[index] for index in batch)
        assert set(people.values()) == {per_label}
        assert len(people) == 16 // per_label
        for label in people:
            mine = [index for index in batch if LABELS[index] == label]
            assert len(set(mine)) == min(per_label, LABELS.count(label))  # repeats only where there are too few
    seen = Counter(index for batch in batches for index in batch)
    assert len(seen) > 0.7 * len(LABELS)


def test_the_same_epoch_is_the_same_and_another_is_not() -> None:
    for make in (lambda seed: RandomBatches(LABELS, 8, seed), lambda seed: GroupedBatches(LABELS, 8, 2, seed)):
        assert make(1).batches(4) == make(1).batches(4)
        assert make(1).batches(4) != make(1).batches(5)
        assert make(1).batches(4) != make(2).batches(4)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_processes_share_each_batch_and_no_image(num_ranks: int) -> None:
    for make in (
        lambda rank, n: RandomBatches(LABELS, 16, 7, rank, n),
        lambda rank, n: GroupedBatches(LABELS, 16, 4, 7, rank, n),
    ):
        whole = make(0, 1).batches(2)
        parts = [make(rank, num_ranks).batches(2) for rank in range(num_ranks)]
        for number, batch in enumerate(whole):
            assert [index for part in parts for index in part[number]] == batch
            assert not set(parts[0][number]) & set(parts[1][number]) or len(set(batch)) < 16
    for part in parts:  # grouped: each process has whole labels, so triplets can be made within it
        for batch in part:
            assert set(Counter(LABELS[index] for index in batch).values()) == {4}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomBatches([1, 2], 4), "2 images are fewer"),
        (lambda: RandomBatches(LABELS, 9, num_ranks=2), "multiple of the 2 processes"),
        (lambda: RandomBatches(LABELS, 8, rank=2, num_ranks=2), "rank 2"),
        (lambda: GroupedBatches(LABELS, 10, 4), "multiple of 4 images"),
        (lambda: GroupedBatches([1] * 40, 8, 4), "1 labels are fewer than the 2"),
    ],
)
def test_refusals(make, words: str) -> None:
    with pytest.raises(DataError, match=words):
        make()


# Augmentation


@pytest.fixture
def picture():
    from conftest import make_picture

    return make_picture(1, (50, 90))


SMALL = Preprocessing(size_hw=(64, 32))


def apply(augmentation: Augmentation, picture, seed: int = 0) -> np.ndarray:
    return augmentation.apply(picture, SMALL, np.random.default_rng(seed)).numpy()


def test_without_any_step_it_is_the_serving_preprocessing(picture) -> None:
    expected = normalize(to_fractions(resize_image(picture, SMALL))[None], SMALL)[0].numpy()
    np.testing.assert_array_equal(apply(Augmentation(flip=0), picture), expected)
    np.testing.assert_array_equal(apply(Augmentation(flip=1), picture), expected[:, :, ::-1])


def test_crop_is_a_window_of_the_larger_picture(picture) -> None:
    large = normalize(to_fractions(resize_image(picture, Preprocessing(size_hw=(72, 36))))[None], SMALL)[0].numpy()
    places = set()
    for seed in range(12):
        got = apply(Augmentation(crop=1, flip=0), picture, seed)
        found = [(y, x) for y in range(9) for x in range(5) if np.array_equal(large[:, y : y + 64, x : x + 32], got)]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 6


def test_erasing_puts_the_mean_into_one_box(picture) -> None:
    before = apply(Augmentation(flip=0), picture)
    shares = []
    for seed in range(30):
        after = apply(Augmentation(flip=0, erase=1), picture, seed)
        changed = (after != before).any(0)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box == 0).all()
        shares.append(box[0].size / changed.size)
    assert 0.01 < min(shares) < 0.1
    assert 0.25 < max(shares) < 0.45


def test_a_patch_is_a_window_of_the_donor(picture) -> None:
    from conftest import make_picture

    donor = make_picture(2, (40, 80))
    before, other = apply(Augmentation(flip=0), picture), apply(Augmentation(flip=0), donor)
    mirrored, shares = 0, []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        after = Augmentation(flip=0, patch=1).apply(picture, SMALL, rng, lambda: donor).numpy()
        changed = (after != before).any(0)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        h, w = box.shape[1:]
        places = [(y, x) for y in range(64 - h + 1) for x in range(32 - w + 1)]
        plain = any(np.array_equal(other[:, y : y + h, x : x + w], box) for y, x in places)
        turned = any(np.array_equal(other[:, y : y + h, x : x + w], box[:, :, ::-1]) for y, x in places)
        assert plain or turned
        mirrored += turned and not plain
        shares.append(h * w / changed.size)
    assert 5 < mirrored < 25
    assert 0.005 < min(shares) < 0.1
    assert 0.3 < max(shares) < 0.55
    np.testing.assert_array_equal(apply(Augmentation(flip=0, patch=1), picture), before)  # no donor, no patch


def test_jitter_changes_light_only_a_little(picture) -> None:
    before, after = (apply(Augmentation(flip=0, jitter=j), picture, 5) for j in (0, 1))
    assert 0 < abs(after - before).mean() < 0.6


def test_a_sample_depends_on_its_generator_alone(picture) -> None:
    all_steps = Augmentation(crop=0.5, flip=0.5, jitter=0.5, erase=0.5)
    np.testing.assert_array_equal(apply(all_steps, picture, 3), apply(all_steps, picture, 3))
    assert any((apply(all_steps, picture, 3) != apply(all_steps, picture, seed)).any() for seed in (4, 5))
    with pytest.raises(ValueError, match=r"crop 1\.5"):
        Augmentation(crop=1.5)
