"""Tracks: MOT text, trackers, detectors, crop quality, and refinement by appearance."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("trackers")

from conftest import shared_data
from osnet.video import Boxes, FootageError, VideoFrame, kalman, make_detector, make_tracker, open_footage
from osnet.video.appearance import Appearance, Likelihoods, refine
from osnet.video.crops import Collector, Sample, choose_samples, cover, crop_quality, sharpness
from osnet.video.detectors import MotionDetector, intersections, iou, rfdetr_detector, suppress, torchvision_detector
from osnet.video.motfile import MotFile, write_mot
from osnet.video.protocols import NO_ID, Track
from osnet.video.source import read_frames
from osnet.video.tracking import TRACKERS, front_end

BLANK = np.zeros((120, 200, 3), np.uint8)


def frame(n: int, fps: float = 10.0) -> VideoFrame:
    return VideoFrame(BLANK, 1000 + n / fps, n + 1)


def boxes(*corners: tuple[float, float, float, float], score: float = 0.9) -> Boxes:
    return Boxes(np.array(corners, np.float32).reshape(-1, 4), np.full(len(corners), score, np.float32))


def test_mot_text_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "gt.txt"
    path.write_text("2,7,10,20,30,40,1,-1,-1,-1\n\n1 7 9.5 20 30 40 0.5\n1,8,0,0,5,5,0,1,1\n2,-1,50,60,10,20\n")
    found = MotFile(path)
    assert (len(found), found.num_frames, found.has_ids) == (3, 2, True)
    first, ids = found.at(1)
    np.testing.assert_allclose(first.xyxy, [[9.5, 20, 39.5, 60]])
    assert (ids.tolist(), first.scores.tolist()) == ([7], [0.5])
    second, ids = found.at(2)
    assert ids.tolist() == [7, NO_ID]
    assert second.scores.tolist() == [1, 1]
    assert len(found.at(3)[0]) == 0
    track = Track(3, [4, 5], [0.4, 0.5], [(1.0, 2.0, 11.0, 22.0), (2.0, 2.0, 12.0, 22.0)], [0.75, 0.0])
    write_mot(tmp_path / "out.txt", [track])
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert lines == ["4,3,1.00,2.00,10.00,20.00,0.7500,1,1", "5,3,2.00,2.00,10.00,20.00,0.0100,1,1"]


def test_ids_of_64_bits_are_read_exactly(tmp_path: Path) -> None:
    """DeepStream's ids are random above and counted below; as floats, people with neighbouring ids would be one."""
    ids = [2**62 + 1, 2**62 + 2, 2**63 + 1, 2**63 + 2, -(2**63), 2**64 - 1]
    path = tmp_path / "tracks.txt"
    path.write_text("".join(f"1,{key},{10 * place},0,5,5,1\n" for place, key in enumerate(ids)) + "1,7.0,90,0,5,5\n")
    read = MotFile(path).at(1)[1].tolist()
    assert [key % 2**64 for key in read] == [key % 2**64 for key in [*ids, 7]]
    assert read[5] == NO_ID


@pytest.mark.parametrize(
    "line",
    [
        *("1,1,0,0,5", "1,1,a,0,5,5", "0,1,0,0,5,5", "1.5,1,0,0,5,5", "1,1,0,0,-5,5", "1,1,nan,0,5,5"),
        *(f"1,{2**64},0,0,5,5", f"1,{-(2**63) - 1},0,0,5,5", "1,1e300,0,0,5,5", "1,1,1e39,0,5,5", "1,1.5,0,0,5,5"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(f"1,1,0,0,5,5,1\n{line}\n")
    with pytest.raises(FootageError, match=r"bad\.txt, line 2"):
        MotFile(path)


@pytest.mark.parametrize("name", [n for n in TRACKERS if n != "botsort"])
def test_ids_do_not_depend_on_the_order_of_boxes(name: str) -> None:
    tracker = make_tracker(name)
    tracker.reset(10.0)
    dice = np.random.default_rng(0)
    seen: dict[int, set[int]] = {0: set(), 1: set()}
    for n in range(20):
        people = [(10 + 3 * n, 20, 30 + 3 * n, 70), (150 - 2 * n, 40, 170 - 2 * n, 90)]
        order = dice.permutation(2)
        ids = tracker.update(boxes(*(people[i] for i in order)), frame(n))
        assert ids.shape == (2,)
        for place, person in enumerate(order):
            if ids[place] != NO_ID:
                seen[int(person)].add(int(ids[place]))
    assert len(seen[0]) == len(seen[1]) == 1
    assert seen[0] != seen[1]
    assert tracker.update(boxes(), frame(20)).shape == (0,)


def test_a_hidden_person_keeps_the_id_for_three_seconds() -> None:
    """Seen for 2 s, hidden for 2.5 s, then where they were: the same id. The package's own buffer is 1 s."""
    box = (50.0, 20, 70, 70)
    for options, same in (({}, True), ({"lost_track_buffer": 30}, False)):
        tracker = make_tracker("bytetrack", **options)
        tracker.reset(10.0)
        ids = [int(tracker.update(boxes(box), frame(n))[0]) for n in range(20)]
        for n in range(20, 45):
            tracker.update(boxes(), frame(n))
        later = [int(tracker.update(boxes(box), frame(n))[0]) for n in range(45, 50)]
        assert (later[-1] == ids[-1]) is same
        assert tracker.description["lost_track_buffer"] == options.get("lost_track_buffer", 90)


@pytest.mark.parametrize(("name", "estimator"), [("cbiou", "XCYCWH"), ("bytetrack", "XYXY")])
def test_quick_filters_compute_what_the_packages_own_do(name: str, estimator: str) -> None:
    """People who walk, hide, and are seen with low scores; frames that come late, twice as late, and not at all."""
    own = getattr(pytest.importorskip("trackers.utils.state_representations"), f"{estimator}StateEstimator")
    quick, slow = make_tracker(name), make_tracker(name, state_estimator_class=own)
    dice = np.random.default_rng(0)
    people, speeds = dice.uniform(0, 400, (8, 2)), dice.uniform(-4, 4, (8, 2))
    compared, time_s = 0, 1000.0
    for tracker in (quick, slow):
        tracker.reset(10.0)
    for n in range(1, 200):
        steps = (1, 1, 1, 1.03, 2, 0.4, 1 if n % 50 else 15)[n % 7]
        time_s, people = time_s + 0.1 * steps, people + speeds * steps
        seen = dice.permutation(8)[: dice.integers(9)]
        left_top = (people + dice.normal(0, 1, people.shape))[seen]
        corners = np.concatenate([left_top, left_top + dice.normal((40, 90), 1, left_top.shape)], axis=1)
        found = Boxes(corners.astype(np.float32), dice.choice([0.3, 0.65, 0.9], len(seen), p=[0.2, 0.2, 0.6]))
        ids, want = (tracker.update(found, VideoFrame(BLANK, time_s, n)) for tracker in (quick, slow))
        assert ids.tolist() == want.tolist()
        got, known = (tracker._tracker.tracked_objects for tracker in (quick, slow))
        np.testing.assert_allclose(got.xyxy, known.xyxy, rtol=0, atol=1e-9 * 400)
        compared += len(got)
    assert compared > 1000
    assert type(quick._tracker.tracks[0].state_estimator) is not own
    assert "state_estimator_class" not in quick.description


def test_a_version_of_trackers_without_these_parts_keeps_its_own_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("trackers.utils.motion_models")
    own = pytest.importorskip("trackers.utils.state_representations").XYXYStateEstimator
    monkeypatch.delattr(models, "ScalableProcessNoise")
    kalman._scale_noise.cache_clear()
    assert kalman.quick_estimator.__wrapped__(own) is own
    kalman._scale_noise.cache_clear()


def test_unknown_trackers_options_and_detectors_are_named(tmp_path: Path) -> None:
    with pytest.raises(FootageError, match="'deepsort'"):
        make_tracker("deepsort")
    with pytest.raises(FootageError, match="'buffer'"):
        make_tracker("sort", buffer=3)
    for name in ("yolo", str(tmp_path / "missing.onnx"), "rfdetr:huge", "torchvision:nothing"):
        with pytest.raises(FootageError, match=name.split(":")[-1]):
            make_detector(name)
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(FootageError, match=r"no\.onnx"):
        make_detector(tmp_path / "no.onnx")
    (tmp_path / "det.txt").write_text("1,-1,0,0,5,5,1\n")
    with pytest.raises(FootageError, match="no ids"):
        front_end(tmp_path / "det.txt")


def test_iou_and_suppression_by_hand() -> None:
    a = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [100, 0, 110, 10]], np.float32)
    np.testing.assert_allclose(iou(a, a)[0], [1, 50 / 150, 0])
    some = Boxes(a, np.array([0.5, 0.9, 0.1], np.float32))
    assert suppress(some, 0.3).scores.tolist() == pytest.approx([0.9, 0.1])
    assert len(suppress(some, 0.4)) == 3


@pytest.mark.parametrize(
    ("file", "threshold", "recall", "precision"),
    [
        ("detectors/yolox_nano_416x416.onnx", 0.3, 0.90, 0.72),
        ("detectors/pedestrian-detection-adas-0002/pedestrian-detection-adas-0002.xml", 0.5, 0.80, 0.90),
    ],
)
def test_detectors_find_people_on_a_street(file: str, threshold: float, recall: float, precision: float) -> None:
    """Every 40th frame of OpenCV's vtest.avi, against PETS09-S2L1's truth, at an overlap of a half."""
    optimize = pytest.importorskip("scipy.optimize")
    pytest.importorskip("openvino" if file.endswith("xml") else "onnxruntime")
    detector = make_detector(shared_data(file), threshold)
    truth = MotFile(shared_data("mot15/PETS09-S2L1/gt/gt.txt"))
    found = right = people = 0
    for one in read_frames(open_footage(shared_data("videos/vtest.avi"), 0.0), fps=0.25):
        got, want = detector.detect(one), truth.at(one.number)[0]
        overlaps = iou(want.xyxy, got.xyxy)
        right += int((overlaps[optimize.linear_sum_assignment(-overlaps)] >= 0.5).sum())
        found, people = found + len(got), people + len(want)
    assert right / people >= recall
    assert right / found >= precision


def test_the_motion_detector_finds_what_moves_and_nothing_else() -> None:
    ground = np.random.RandomState(0).randint(90, 130, (240, 320, 3)).astype(np.uint8)
    detector = MotionDetector(memory_s=20, learns_at_fps=10)
    hits = []
    for n in range(60):
        image = ground.copy()
        if n >= 20:
            image[100:180, 5 * n - 60 : 5 * n - 30] = (200, 30, 30)
        found = detector.detect(VideoFrame(image, n / 10, n + 1))
        if n < 20:
            assert len(found) == 0
        else:
            want = np.array([[5 * n - 60, 100, 5 * n - 30, 180]], np.float32)
            hits.append(len(found) == 1 and float(iou(want, found.xyxy)[0, 0]) > 0.6)
    assert np.mean(hits) > 0.9
    detector.reset()
    assert len(detector.detect(VideoFrame(image, 0.0, 1))) == 0


def test_a_detector_of_torchvision_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights, by its name: boxes are those of the network itself, of the class of people only."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    network = models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    for layers in network.head.classification_head.module_list:
        with torch.no_grad():
            layers[-1].bias[1::91] += 2  # else no class of 91 is likely enough
            layers[-1].bias[3::91] += 2
    monkeypatch.setattr(models, "get_model", lambda name, weights: network)
    image = np.random.RandomState(0).randint(0, 255, (120, 200, 3)).astype(np.uint8)
    detector = make_detector("torchvision:ssdlite320_mobilenet_v3_large", 0.0)
    found = detector.detect(VideoFrame(image, 0.0, 1))
    with torch.inference_mode():
        plain = network([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    people = plain["labels"] == 1
    assert detector.description["detector"] == "torchvision ssdlite320_mobilenet_v3_large"
    assert 0 < len(found) <= int(people.sum()) < len(people)
    assert set(found.scores.tolist()) <= set(plain["scores"][people].tolist())
    assert found.xyxy.min() >= 0
    assert (found.xyxy.max(0) <= [200, 120, 200, 120]).all()


def test_torchvisions_detectors_return_only_people() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            assert pictures[0].shape == (3, 120, 200)
            assert float(pictures[0].max()) <= 1
            return [{
                "boxes": torch.tensor([[10.0, 10, 40, 90], [0, 0, 5, 5], [-20, 5, 30, 500], [1, 1, 9, 9]]),
                "scores": torch.tensor([0.9, 0.8, 0.7, 0.2]),
                "labels": torch.tensor([1, 3, 1, 1]),
            }]  # fmt: skip

    found = torchvision_detector(Fixed(), threshold=0.5).detect(VideoFrame(BLANK + 255, 0.0, 1))
    np.testing.assert_allclose(found.xyxy, [[10, 10, 40, 90], [0, 5, 30, 120]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rfdetr_finds_people() -> None:
    """Its network with random weights, where half of the queries are made to say "person"."""
    rfdetr = pytest.importorskip("rfdetr")
    torch.manual_seed(0)
    model = rfdetr.RFDETRNano(pretrain_weights=None)
    bias = model.model.model.class_embed.bias.data
    bias[1], bias[18] = bias[1] + 6, bias[18] + 6  # COCO's numbers of person and dog
    image = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    all_found = model.predict(image, threshold=0.3)
    people = all_found.class_id == 1
    assert 0 < people.sum() < len(people)
    found = rfdetr_detector(model, 0.3).detect(VideoFrame(image, 0.0, 1))
    expected = np.clip(all_found.xyxy[people], 0, [200, 120, 200, 120])
    expected = expected[(expected[:, 2] > expected[:, 0]) & (expected[:, 3] > expected[:, 1])]
    np.testing.assert_allclose(found.xyxy, expected, atol=1e-3)


def test_rfdetr_offline_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download() -> None:
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "rfdetr", SimpleNamespace(RFDETRNano=download))
    with pytest.raises(FootageError, match=r"RFDETRNano .*no network"):
        make_detector("rfdetr:nano")


# ---- crops


def test_cover_is_the_share_hidden_by_people_in_front() -> None:
    # The second stands before the first (its feet are lower) and covers half of it; the third is alone.
    some = np.array([[0, 0, 10, 20], [5, 0, 15, 30], [50, 0, 60, 20]], np.float32)
    np.testing.assert_allclose(cover(some), [0.5, 0, 0])
    assert cover(some[:0]).shape == (0,)


def test_iou_and_shared_areas_by_hand() -> None:
    some = np.array([[0, 0, 10, 20], [5, 10, 15, 30], [10, 0, 20, 20], [30, 0, 40, 20], [7, 7, 7, 9]], np.float32)
    assert intersections(some[:2], some).tolist() == [[200, 50, 0, 0, 0], [50, 200, 50, 0, 0]]
    np.testing.assert_allclose(iou(some[:2], some), [[1, 1 / 7, 0, 0, 0], [1 / 7, 1, 1 / 7, 0, 0]])
    assert iou(some[4:], some[4:]).tolist() == [[0]]  # no area
    assert iou(some[:0], some).shape == (0, 5)


def test_sharpness_is_exact_for_large_crops() -> None:
    """The extremes of the Laplacian, -1020 and 1020, in a sum that float32 does not hold."""
    chess = np.zeros((800, 600, 3), np.uint8)
    chess[::4, ::4] = chess[2::4, 2::4] = 255  # of every second pixel, every second one
    assert sharpness(chess) == 1020**2 / (1020**2 + 960)
    chess[0, 0] = chess[400, 300] = 100
    values = chess[::2, ::2, 1].astype(int)
    total = sum(
        (values[y - 1, x] + values[y + 1, x] + values[y, x - 1] + values[y, x + 1] - 4 * values[y, x]) ** 2
        for y in range(1, 399) for x in range(1, 299)
    )  # fmt: skip
    assert sharpness(chess) == pytest.approx(total / (398 * 298) / (total / (398 * 298) + 960), rel=1e-12)
    assert sharpness(chess[:4]) == sharpness(chess[:, :4]) == 0


def test_quality_falls_with_each_fault() -> None:
    best = crop_quality(0.9, 200, 0.0, False, 0.8)
    assert 0 < best <= 1
    for worse in ((0.5, 200, 0.0, False, 0.8), (0.9, 80, 0.0, False, 0.8), (0.9, 200, 0.5, False, 0.8),
                  (0.9, 200, 0.0, True, 0.8), (0.9, 200, 0.0, False, 0.2)):  # fmt: skip
        assert crop_quality(*worse) < best
    sharp = np.random.RandomState(0).randint(0, 255, (60, 30, 3)).astype(np.uint8)
    blurred = np.full((60, 30, 3), 90, np.uint8)
    assert sharpness(sharp) > sharpness(blurred)


def sample(n: int, vector: list[float], quality: float = 0.5, time_s: float | None = None) -> Sample:
    unit = np.array(vector, np.float32) / np.linalg.norm(vector)
    return Sample(n, n / 10 if time_s is None else time_s, (0, 0, 10, 20), quality, unit, b"")


def test_chosen_crops_are_good_and_differ() -> None:
    """Of a long front view and one moment from behind, both are kept; of two alike the better."""
    front, back = [1.0, 0, 0], [0, 1.0, 0]
    some = [sample(n, front, 0.5 + 0.01 * n) for n in range(8)] + [sample(8, back, 0.4)]
    chosen = choose_samples(some, 2)
    assert [s.number for s in chosen] == [7, 8]
    assert [s.number for s in choose_samples(some, 20)] == list(range(9))


class Counting:
    """An embedder whose vectors are the crops' mean colours; it counts the crops."""

    batch_size, normalize = 4, False

    def __init__(self) -> None:
        self.crops = 0

    def embed(self, crops: list[np.ndarray]) -> np.ndarray:
        self.crops += len(crops)
        assert len(crops) <= self.batch_size
        return np.array([crop.reshape(-1, 3).mean(0) for crop in crops], np.float32)


def collect(people: dict[int, list[tuple[int, tuple[float, float, float, float]]]], fps: float) -> tuple[dict, int]:
    """Samples by id, and the number of embedded crops, from boxes by id and frame number."""
    embedder = Counting()
    collector = Collector(embedder)  # type: ignore[arg-type]
    image = np.random.RandomState(0).randint(0, 255, (120, 200, 3)).astype(np.uint8)
    last = max(n for rows in people.values() for n, _ in rows)
    for n in range(1, last + 1):
        here = [(key, box) for key, rows in people.items() for number, box in rows if number == n]
        ids = np.array([key for key, _ in here], np.int64)
        collector.add(VideoFrame(image, 1000 + (n - 1) / fps, n), boxes(*(box for _, box in here)), ids)
    return collector.finish()[1], embedder.crops


def test_crops_come_from_both_ends_of_a_run_and_a_few_from_between() -> None:
    """Seen for 20 s, lost for a second, seen for 10 s with a short miss: two runs; all that is embedded is kept."""
    box = (50.0, 20.0, 70.0, 80.0)
    numbers = [n for n in range(1, 311) if not 200 < n <= 210 and not 250 < n <= 253]
    samples, crops = collect({5: [(n, box) for n in numbers]}, 10.0)
    assert crops == len(samples[5])
    seconds = [int(s.time_s - 1000) for s in samples[5]]
    first, second = [s for s in seconds if s < 20.5], [s for s in seconds if s > 20.5]
    assert first[:2] == [0, 1]
    assert first[-2:] == [18, 19]
    assert [s // 5 for s in first[2:-2]] == [0, 1, 2, 3]
    assert second[:2] == [21, 22]
    assert second[-2:] == [29, 30]
    assert [(s - 21) // 5 for s in second[2:-2]] == [0, 1]


def test_crops_of_a_crossing_are_embedded_only_if_there_are_no_others() -> None:
    still, passing = (90.0, 20.0, 110.0, 80.0), lambda n: (30.0 + 2 * n, 25.0, 50.0 + 2 * n, 85.0)
    pair = [(n, passing(n)) for n in range(1, 61)]
    samples, _ = collect({1: [(n, still) for n in range(1, 61)], 2: pair}, 10.0)
    overlapping = [n for n, box in pair if float(iou(np.array([still]), np.array([box]))[0, 0]) >= 0.35]
    assert len(overlapping) > 5
    for key in (1, 2):
        numbers = [s.number for s in samples[key]]
        assert min(numbers) < overlapping[0]
        assert max(numbers) > overlapping[-1]
        assert not set(numbers) & set(overlapping)
    together, _ = collect(
        {1: [(n, still) for n in range(1, 31)], 2: [(n, (92.0, 20, 112, 80)) for n in range(1, 31)]}, 10.0
    )
    assert [len(together[key]) for key in (1, 2)] == [1, 1]


def test_boxes_without_an_id_cover_crops_but_are_no_crossing() -> None:
    """Until frame 10 somebody stands in front. Then the crop is better; with an id, five frames after the crossing."""
    box, front = (90.0, 20.0, 110.0, 80.0), (90.0, 21.0, 110.0, 81.0)
    image = np.random.RandomState(0).randint(0, 255, (120, 200, 3)).astype(np.uint8)
    for other, best in ((NO_ID, 11), (8, 16)):
        collector = Collector(Counting(), 100.0)  # type: ignore[arg-type]
        for n in range(1, 31):
            here = boxes(box, front) if n <= 10 else boxes(box)
            collector.add(VideoFrame(image, 1000 + n / 10, n), here, np.array([5, other][: len(here)], np.int64))
        tracks, samples = collector.finish()
        assert [track.id for track in tracks] == ([5] if other == NO_ID else [5, 8])
        assert [s.number for s in samples[5]] == [best]


# ---- appearance after tracking


def moving(key: int, first: int, last: int, x: float, speed: float = 2.0, y: float = 100) -> Track:
    track = Track(key)
    for n in range(first, last):
        left = x + speed * n
        track.append(n + 1, n / 10, (left, y, left + 20, y + 60), 0.9)
    return track


def samples_of(track: Track, vector: list[float]) -> list[Sample]:
    return [sample(n, vector, 0.8, t) for n, t in zip(track.numbers[::5], track.times_s[::5], strict=True)]


RED, BLUE = [1.0, 0.1, 0.0], [0.1, 0.0, 1.0]


def test_a_broken_track_is_joined_and_the_gap_filled() -> None:
    """Lost for 1.5 s behind a post, found again with another id, where it would be; another person elsewhere."""
    before, after, other = moving(1, 0, 40, 0), moving(2, 55, 90, 0), moving(3, 0, 90, 300, -2, 220)
    given = {1: samples_of(before, RED), 2: samples_of(after, RED), 3: samples_of(other, BLUE)}
    tracks, samples = refine([before, after, other], given, Appearance(), (400, 300))
    assert [len(t) for t in tracks] == [90, 90]
    joined = tracks[0]
    assert joined.pieces == [(1, 1, 40), (2, 56, 90)]
    assert joined.numbers == list(range(1, 91))
    np.testing.assert_allclose([box[0] for box in joined.boxes], 2.0 * np.arange(90), atol=1e-6)
    assert [s == 0 for s in joined.scores] == [40 <= n < 55 for n in range(90)]
    assert len(samples[joined.id]) == len(given[1]) + len(given[2])


def test_two_people_are_not_joined() -> None:
    left, came = moving(1, 0, 40, 0), moving(2, 50, 90, 250, 2, 200)
    tracks, _ = refine([left, came], {1: samples_of(left, RED), 2: samples_of(came, BLUE)}, Appearance(), (400, 300))
    assert [len(t) for t in tracks] == [40, 40]


def test_ids_swapped_at_a_crossing_are_corrected() -> None:
    """Two meet, stop, and turn round; a tracker by motion lets them pass through each other."""
    dice = np.random.default_rng(3)

    def path(key: int, xs: list[float]) -> Track:
        track = Track(key)
        for n, x in enumerate(xs):
            track.append(n + 1, n / 10, (x + dice.normal(0, 0.3), 100.0, x + 20, 160.0), 0.9)
        return track

    out = [100 - abs(n - 50) * 2.0 + 0 for n in range(100)]  # to 100 and back
    back = [108 + abs(n - 50) * 2.0 for n in range(100)]
    red_then_blue, blue_then_red = path(1, out[:50] + back[50:]), path(2, back[:50] + out[50:])
    given = {
        1: [sample(n, RED if n < 50 else BLUE, 0.8, n / 10) for n in range(0, 100, 5) if abs(n - 50) > 4],
        2: [sample(n, BLUE if n < 50 else RED, 0.8, n / 10) for n in range(0, 100, 5) if abs(n - 50) > 4],
    }
    tracks, samples = refine([red_then_blue, blue_then_red], given, Appearance(), (400, 300))
    assert len(tracks) == 2
    for track in tracks:
        colours = {int(s.vector[2] > 0.5) for s in samples[track.id]}
        assert len(colours) == 1, "one track, one person"
    plain, _ = refine([red_then_blue, blue_then_red], given, Appearance(use_vectors=False), (400, 300))
    assert sorted(t.pieces for t in plain) == [[(1, 1, 100)], [(2, 1, 100)]]


def test_a_track_of_one_frame_per_second_is_not_cut() -> None:
    track = Track(
        1, list(range(1, 11)), [float(n) for n in range(10)], [(20.0 * n, 100, 20.0 * n + 20, 160) for n in range(10)]
    )
    track.scores = [0.9] * 10
    tracks, _ = refine([track], {1: samples_of(track, RED)}, Appearance(), (400, 300))
    assert [t.pieces for t in tracks] == [[(1, 1, 10)]]
    samples, crops = collect({1: [(n, (50.0, 20.0, 70.0, 80.0)) for n in range(1, 21)]}, 1.0)
    assert crops == len(samples[1]) == 8  # two at each end, and one for each five seconds


def test_people_are_lost_inside_the_frame_and_leave_at_its_border() -> None:
    """The same two pieces, by motion only: joined in the middle of a large frame, not at its right border."""
    before, after = moving(1, 0, 40, 100, 5), moving(2, 50, 90, 180, 5)
    settings = Appearance(use_vectors=False)
    end = before.boxes[-1][2]
    inside, _ = refine([before, after], {}, settings, (1200, 300))
    assert len(inside) == 1
    at_border, _ = refine([before, after], {}, settings, (int(end) + 1, 300))
    assert len(at_border) == 2


def test_who_leaves_the_frame_and_comes_back_is_a_new_track() -> None:
    """The same person turns round and is lost for a second: inside the frame joined, outside it not."""
    away, back = moving(1, 0, 40, 100, 5), moving(2, 50, 90, 550, -5)
    given = {1: samples_of(away, RED), 2: samples_of(back, RED)}
    assert (away.boxes[-1][2], back.boxes[0][2]) == (315, 320)
    inside, _ = refine([away, back], given, Appearance(), (1200, 300))
    assert len(inside) == 1
    for width in (323, 350):  # at 50 pixels per second, both boxes touch the border within a second
        outside, _ = refine([away, back], given, Appearance(), (width, 300))
        assert [t.pieces for t in outside] == [[(1, 1, 40)], [(2, 51, 90)]], width
    for other in (Appearance(exit_s=0), Appearance(join_returns=True)):
        assert len(refine([away, back], given, other, (350, 300))[0]) == 1


def test_tracks_are_cut_where_they_overlap_most_in_the_frames_of_both() -> None:
    """They meet at frame 51, and one has a box in every third frame only, from frame 11 to frame 95."""
    right, left = moving(1, 0, 100, 0), moving(2, 10, 95, 200, -2)
    sparse = Track(2, *(rows[::3] for rows in (left.numbers, left.times_s, left.boxes, left.scores)))
    for tracks in ([right, sparse], [sparse, right]):
        whole, _ = refine(tracks, {}, Appearance(use_vectors=False, tracker_bonus=-50), (400, 300))
        assert sorted(piece for track in whole for piece in track.pieces) == [
            (1, 1, 49), (1, 50, 100), (2, 11, 47), (2, 50, 95),
        ]  # fmt: skip
    later = moving(2, 50, 51, 0)  # in frame 90, where the other was in frame 51: they do not meet
    never = Track(2, [1, 90], [0.0, 8.9], [(300.0, 10.0, 320.0, 70.0), *later.boxes], [0.9, 0.9])
    whole, _ = refine([right, never], {}, Appearance(use_vectors=False, tracker_bonus=-50), (400, 300))
    assert (1, 1, 100) in [piece for track in whole for piece in track.pieces]
    apart = moving(3, 100, 150, 0)
    assert len(refine([right, apart], {}, Appearance(use_vectors=False, max_gap_s=0), (400, 300))[0]) == 2


def test_no_tracks_give_no_tracks() -> None:
    assert refine([], {}, Appearance(), (400, 300)) == ([], {})


def test_cosines_of_means_have_their_expected_value() -> None:
    """Unit vectors around a common direction: single cosines are known, those of means are measured."""
    dice = np.random.default_rng(0)
    d, same = 256, 0.6
    noise = dice.normal(size=(2, 4000, 4, d)) * math.sqrt((1 - same) / d)
    vectors = noise + math.sqrt(same) * np.eye(d)[0]
    for first, second in ((1, 1), (1, 4), (4, 4), (2, 3)):
        a, b = vectors[0, :, :first].mean(1), vectors[1, :, :second].mean(1)
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert Likelihoods(same, 0.3, 1, 0, 0).expected(same, first, second) == pytest.approx(cosines.mean(), abs=0.01)


def test_a_track_of_two_people_is_split_at_a_long_gap() -> None:
    """One id for a person who left and another who came a second and a half later, elsewhere and in other clothes."""
    left, came = moving(1, 0, 40, 0), moving(1, 55, 95, 60)
    track = Track(1, left.numbers + came.numbers, left.times_s + came.times_s, left.boxes + came.boxes)
    track.scores = left.scores + came.scores
    tracks, _ = refine([track], {1: samples_of(left, RED) + samples_of(came, BLUE)}, Appearance(), (400, 300))
    assert [t.pieces for t in tracks] == [[(1, 1, 40)], [(1, 56, 95)]]


def test_likelihoods_by_hand() -> None:
    known = Likelihoods(same=0.8, other=0.5, variance=0.01, spread_base=0.1, spread_per_s=0.2)
    # Single crops: log N(c; .8, .01) - log N(c; .5, .01). Means of 4 and 2 crops have the squared lengths .85 and .9.
    for counts, scale in (((1, 1), 1.0), ((4, 2), 1 / math.sqrt(0.85 * 0.9))):
        for cosine in (0.4, 0.65, 0.9):
            want = (-((cosine - 0.8 * scale) ** 2) + (cosine - 0.5 * scale) ** 2) / 0.02
            assert known.appearance(cosine, *counts) == pytest.approx(want)
    sigma = 50 * (0.1 + 0.2 * 2)
    want = math.log((1 + (30 / sigma) ** 2 / 4) ** -3 / (2 * math.pi * sigma**2)) + math.log(120_000)
    assert known.motion(30, 2.0, 50, 120_000) == pytest.approx(want)
    # It is a density: over the plane it makes 1.
    r = np.linspace(0, 200 * sigma, 400_001)
    ring = 2 * math.pi * r * (1 + (r / sigma) ** 2 / 4) ** -3 / (2 * math.pi * sigma**2)
    assert np.trapezoid(ring, r) == pytest.approx(1, abs=1e-3)
