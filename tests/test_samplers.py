"""Batch samplers (contents, seeds, several processes) and augmentation."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

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
def test_grouped_batches_have_p_labels_with_k_images(per_label: int) -> None:
    sampler = GroupedBatches(LABELS, 16, per_label, seed=3)
    batches = sampler.batches(1)
    for batch in batches:
        people = Counter(LABELS[index] for index in batch)
        assert set(people.values()) == {per_label}
        assert len(people) == 16 // per_label
        for label in people:
            indices = [index for index in batch if LABELS[index] == label]
            assert len(set(indices)) == min(
                per_label, LABELS.count(label)
            )  # repeats only if a label has too few images
    seen = Counter(index for batch in batches for index in batch)
    assert len(seen) > 0.7 * len(LABELS)


def test_batches_depend_on_seed_and_epoch() -> None:
    for make in (lambda seed: RandomBatches(LABELS, 8, seed), lambda seed: GroupedBatches(LABELS, 8, 2, seed)):
        assert make(1).batches(4) == make(1).batches(4)
        assert make(1).batches(4) != make(1).batches(5)
        assert make(1).batches(4) != make(2).batches(4)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_processes_split_each_batch(num_ranks: int) -> None:
    for make in (
        lambda rank, n: RandomBatches(LABELS, 16, 7, rank, n),
        lambda rank, n: GroupedBatches(LABELS, 16, 4, 7, rank, n),
    ):
        whole = make(0, 1).batches(2)
        parts = [make(rank, num_ranks).batches(2) for rank in range(num_ranks)]
        for number, batch in enumerate(whole):
            assert [index for part in parts for index in part[number]] == batch
            assert not set(parts[0][number]) & set(parts[1][number]) or len(set(batch)) < 16
    for part in parts:  # grouped: each process has all images of a label, for triplets
        for batch in part:
            assert set(Counter(LABELS[index] for index in batch).values()) == {4}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomBatches([1, 2], 4), "2 images are fewer"),
        (lambda: RandomBatches(LABELS, 9, num_ranks=2), "number of processes, 2"),
        (lambda: RandomBatches(LABELS, 8, rank=2, num_ranks=2), "rank 2"),
        (lambda: GroupedBatches(LABELS, 10, 4), "multiple of 4 images"),
        (lambda: GroupedBatches([1] * 40, 8, 4), "1 labels are fewer than the 2"),
    ],
)
def test_invalid_batch_sizes_and_ranks_are_refused(make, words: str) -> None:
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


def test_augmentation_without_steps_is_the_test_preprocessing(picture) -> None:
    expected = normalize(to_fractions(resize_image(picture, SMALL))[None], SMALL)[0].numpy()
    np.testing.assert_array_equal(apply(Augmentation(flip=0), picture), expected)
    np.testing.assert_array_equal(apply(Augmentation(flip=1), picture), expected[:, :, ::-1])


def test_crop_is_a_window_of_the_enlarged_image(picture) -> None:
    large = normalize(to_fractions(resize_image(picture, Preprocessing(size_hw=(72, 36))))[None], SMALL)[0].numpy()
    places = set()
    for seed in range(12):
        got = apply(Augmentation(crop=1, flip=0), picture, seed)
        found = [(y, x) for y in range(9) for x in range(5) if np.array_equal(large[:, y : y + 64, x : x + 32], got)]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 6


def test_erasing_fills_one_box_with_the_mean(picture) -> None:
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


def test_a_patch_is_a_mirrored_or_rotated_window_of_the_donor() -> None:
    """The donor's colours encode pixel positions, from which the patch's mirroring and angle are computed."""
    rows, columns = np.mgrid[:64, :32].astype(np.uint8)
    donor = Image.fromarray(np.stack([3 * rows, 7 * columns, np.full_like(rows, 255)], 2))
    picture = Image.new("RGB", (32, 64), (9, 9, 9))
    mirrored, angles, shares, black = 0, [], [], 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        after = Augmentation(flip=0, patch=1).apply(picture, SMALL, rng, 1, lambda _: donor)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SMALL.mean, SMALL.std))
        red, green, blue = ((after * std + mean) * 255).round().int().numpy()
        changed = (red != 9) | (green != 9) | (blue != 9)
        ys, xs = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert changed[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].all()  # a box
        shares.append(changed.mean())
        y, x = np.nonzero(blue == 255)
        black += changed.sum() > len(y)
        if min(len(ys), len(xs)) < 12:
            continue  # too narrow to measure an angle
        to = np.stack([red[y, x] / 3, green[y, x] / 7], 1)
        (dy_y, dx_y), (dy_x, dx_x), _ = np.linalg.lstsq(np.stack([y, x, np.ones_like(y)], 1), to, rcond=None)[0]
        determinant = dy_y * dx_x - dy_x * dx_y
        assert abs(abs(determinant) - 1) < 0.06
        mirrored += determinant < 0
        angles.append(np.degrees(np.arctan2(-dy_x, dy_y)) * np.sign(determinant))
    assert 0.3 < mirrored / len(angles) < 0.7
    assert -11 < min(angles) < -7
    assert 7 < max(angles) < 11
    assert 0.35 < np.mean(np.abs(angles) < 0.3) < 0.75  # half are not rotated, and a few by about 0 degrees
    assert 0.25 < black / 200 < 0.6
    assert 0.005 < min(shares) < 0.05
    assert 0.4 < max(shares) < 0.55
    untouched = apply(Augmentation(flip=0), picture)
    np.testing.assert_array_equal(apply(Augmentation(flip=0, patch=1), picture), untouched)  # no donor, no patch


def test_patches_are_drawn_from_every_image() -> None:
    augmentation = Augmentation(crop=0.5, flip=0.5, patch=1)
    rng = np.random.default_rng(0)
    patches = [augmentation.draw((64, 32), rng, 10).patch for _ in range(400)]
    assert {patch.donor for patch in patches if patch} == set(range(10))
    choices = [(p.framing.flip, p.framing.corner is None, p.flip, p.degrees == 0) for p in patches if p]
    assert ((np.mean(choices, 0) > 0.4) & (np.mean(choices, 0) < 0.62)).all()  # 0 degrees can also be drawn
    corners = {patch.framing.corner for patch in patches if patch}
    assert {0, 8} <= {corner[0] for corner in corners if corner} <= set(range(9))  # 72 - 64
    assert {0, 4} <= {corner[1] for corner in corners if corner} <= set(range(5))


def test_jitter_changes_colours_slightly(picture) -> None:
    before, after = (apply(Augmentation(flip=0, jitter=j), picture, 5) for j in (0, 1))
    assert 0 < abs(after - before).mean() < 0.6


def test_a_sample_depends_only_on_its_generator(picture) -> None:
    all_steps = Augmentation(crop=0.5, flip=0.5, jitter=0.5, erase=0.5)
    np.testing.assert_array_equal(apply(all_steps, picture, 3), apply(all_steps, picture, 3))
    assert any((apply(all_steps, picture, 3) != apply(all_steps, picture, seed)).any() for seed in (4, 5))
    with pytest.raises(ValueError, match=r"crop.1\.5"):
        Augmentation(crop=1.5)
