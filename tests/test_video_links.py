"""Links between cameras: proposals, decisions, identities and timelines."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from osnet.errors import GalleryError
from osnet.figures.timeline import save_timeline
from osnet.video import Archive, FootageError
from osnet.video.archive import FinishedTrack, segment_name, write_segment
from osnet.video.crops import Sample, encode_jpeg
from osnet.video.links import (
    DECISIONS_FILE,
    Link,
    LinkSettings,
    Travel,
    decide,
    history,
    identities,
    learn_travel,
    propose_links,
    read_decisions,
    read_links,
    write_links,
)
from osnet.video.protocols import Track

JPEG = encode_jpeg(np.full((8, 4, 3), 90, np.uint8))
Seen = tuple[float, float, Sequence[float], float]
"""Begin and end in seconds, vector, left edge of the boxes."""


def make_archive(root: Path, segments: dict[tuple[str, float], list[Seen]], size: int = 4) -> Archive:
    """An archive of made-up tracklets at two frames a second."""
    root.mkdir()
    about = {"format": "osnet-archive-1", "weights_sha256": "0" * 64, "weights_name": "made up"}
    about |= {"embedding_size": size}
    (root / "archive.json").write_text(json.dumps(about))
    for (camera, start), people in segments.items():
        finished = []
        for begin, end, vector, left in people:
            track = Track(1)
            for number in range(round(begin * 2), round(end * 2) + 1):
                track.append(number + 1, number / 2, (left, 10.0, left + 20, 60.0), 0.9)
            unit = (np.array(vector) / np.linalg.norm(vector)).astype(np.float32)
            finished.append(FinishedTrack(track, [Sample(track.numbers[0], begin, track.boxes[0], 0.5, unit, JPEG)]))
        said = {"camera": camera, "start_s": start, "footage": {"path": f"/footage/{camera}.mp4"}, "troubles": []}
        write_segment(root, segment_name(camera, start), finished, said, size)
    return Archive.open(root)


A, B, C = [1, 0, 0, 0.1], [0, 1, 0, 0.1], [0, 0, 1, 0.1]
GATE, HALL = "1970-01-01/gate/000000.000", "1970-01-01/hall/000000.000"
LOOSE = LinkSettings(min_score=0.5)


@pytest.fixture
def two_cameras(tmp_path: Path) -> Archive:
    return make_archive(tmp_path / "a", {
        ("gate", 0.0): [(0, 10, A, 0), (5, 15, B, 100), (40, 50, A, 0)],
        ("hall", 0.0): [(30, 35, A, 0), (31, 37, B, 100), (12, 13, C, 200)],
    })  # fmt: skip


def pairs(links: list[Link]) -> set[tuple[str, str]]:
    return {(link.a.replace("1970-01-01/", "")[:4] + link.a[-1], link.b.replace("1970-01-01/", "")[:4] + link.b[-1])
            for link in links}  # fmt: skip


def test_only_links_of_the_same_person_are_proposed(two_cameras: Archive) -> None:
    links = propose_links(two_cameras, settings=LOOSE)
    # Person A at the gate until 10, in the hall from 30 to 35, at the gate again from 40.
    assert pairs(links) == {("gate1", "hall1"), ("gate2", "hall2"), ("hall1", "gate3")}
    first = next(link for link in links if link.a == f"{GATE}/1")
    assert (first.gap_s, first.decision, first.kind) == (20.0, None, "camera")
    assert first.score == pytest.approx(1)


def test_links_respect_travel_times(two_cameras: Archive) -> None:
    way = frozenset(("gate", "hall"))
    assert pairs(propose_links(two_cameras, {way: Travel(10, 30)}, LOOSE)) == {("gate1", "hall1"), ("gate2", "hall2")}
    assert pairs(propose_links(two_cameras, {way: Travel(0, 8)}, LOOSE)) == {("hall1", "gate3")}
    with pytest.raises(FootageError):
        Travel(9, 8)


def test_no_link_joins_two_views_at_one_time(tmp_path: Path) -> None:
    store = make_archive(tmp_path / "a", {("gate", 0.0): [(0, 10, A, 0)], ("hall", 0.0): [(8, 18, A, 0)]})
    assert propose_links(store, settings=LOOSE) == []
    overlapping = {frozenset(("gate", "hall")): Travel(-5, 60)}
    assert len(propose_links(store, overlapping, LOOSE)) == 1


def test_an_ambiguous_best_match_is_not_proposed(tmp_path: Path) -> None:
    twins = [(20, 25, A, 0), (21, 26, [1, 0.05, 0, 0.1], 100)]
    store = make_archive(tmp_path / "a", {("gate", 0.0): [(0, 10, A, 0)], ("hall", 0.0): twins})
    assert propose_links(store, settings=LOOSE) == []
    assert len(propose_links(store, settings=LinkSettings(min_score=0.5, margin=0.0))) == 1


def test_decisions_are_kept_and_can_be_undone(two_cameras: Archive) -> None:
    one, other = f"{GATE}/1", f"{HALL}/1"
    write_links(two_cameras, propose_links(two_cameras, settings=LOOSE))
    decide(two_cameras, other, one, "confirmed", "ann", datetime(2026, 11, 28, 8, tzinfo=UTC))
    assert {li.decision for li in read_links(two_cameras) if {li.a, li.b} == {one, other}} == {"confirmed"}
    decide(two_cameras, one, other, "rejected", "bob")
    again = propose_links(two_cameras, settings=LOOSE)
    assert [li.decision for li in again if {li.a, li.b} == {one, other}] == ["rejected"]
    decide(two_cameras, one, other, "undone", "ann")
    assert ("gate1", "hall1") in pairs(propose_links(two_cameras, settings=LOOSE))
    assert [(h["decision"], h["by"]) for h in history(two_cameras)] == [
        ("confirmed", "ann"), ("rejected", "bob"), ("undone", "ann"),
    ]  # fmt: skip
    assert history(two_cameras)[0]["at"] == "2026-11-28T08:00:00+00:00"


def test_a_confirmed_link_stays_when_it_is_no_longer_proposed(two_cameras: Archive) -> None:
    decide(two_cameras, f"{GATE}/2", f"{HALL}/3", "confirmed", "ann")
    links = propose_links(two_cameras, settings=LOOSE)
    assert [li.decision for li in links if li.b == f"{HALL}/3" or li.a == f"{HALL}/3"] == ["confirmed"]


def test_bad_decisions_are_refused(two_cameras: Archive) -> None:
    for a, b, word in ((f"{GATE}/1", f"{GATE}/1", "confirmed"), (f"{GATE}/1", f"{GATE}/99", "confirmed"),
                       (f"{GATE}/1", f"{HALL}/1", "maybe"), (f"{GATE}/1", "../../x/1", "confirmed")):  # fmt: skip
        with pytest.raises(GalleryError):
            decide(two_cameras, a, b, word, "ann")  # type: ignore[arg-type]
    assert not (two_cameras.folder / DECISIONS_FILE).exists()


def test_a_truncated_decision_is_ignored(two_cameras: Archive) -> None:
    decide(two_cameras, f"{GATE}/1", f"{HALL}/1", "confirmed", "ann")
    path = two_cameras.folder / DECISIONS_FILE
    with path.open("ab") as file:
        file.write(b'{"a": "1970')
    assert len(read_decisions(two_cameras)) == 1
    decide(two_cameras, f"{GATE}/2", f"{HALL}/2", "rejected", "ann")
    assert list(read_decisions(two_cameras).values()) == ["confirmed", "rejected"]
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(GalleryError, match="line 1"):
        read_decisions(two_cameras)


def test_travel_times_are_learnt_from_three_confirmed_links(tmp_path: Path) -> None:
    gate = [(0, 10 + n, np.eye(4)[n % 4] + 0.1 * n, 60 * n) for n in range(3)]
    hall = [(30 + n, 40, np.eye(4)[n % 4] + 0.1 * n, 60 * n) for n in range(3)]
    store = make_archive(tmp_path / "a", {("gate", 0.0): gate, ("hall", 0.0): hall})
    for n in (1, 2):
        decide(store, f"{GATE}/{n}", f"{HALL}/{n}", "confirmed", "ann")
    assert learn_travel(store, read_decisions(store)) == {}
    decide(store, f"{GATE}/3", f"{HALL}/3", "confirmed", "ann")
    assert learn_travel(store, read_decisions(store)) == {frozenset(("gate", "hall")): Travel(10, 40)}


def test_the_rate_of_different_people_is_counted_on_people_visible_at_once(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    crowd = [(0, 10, dice.normal(size=4), 60 * n) for n in range(9)]  # 36 pairs
    store = make_archive(tmp_path / "a", {("gate", 0.0): crowd, ("hall", 0.0): [(20, 30, crowd[4][2], 0)]})
    (link,) = propose_links(store, settings=LinkSettings(min_score=0.99, margin=0))
    units = np.array([c[2] / np.linalg.norm(c[2]) for c in crowd])
    cosines = (units @ units.T)[np.triu_indices(9, 1)]
    assert link.strangers == pytest.approx(float(np.mean(cosines >= link.score)))
    assert link.a == f"{GATE}/5"


@pytest.mark.parametrize(("most", "proposed"), [(0.01, 1), (0.02, 1), (0.03, 2), (0.05, 2)])
def test_no_proposal_has_more_strangers_than_allowed(tmp_path: Path, most: float, proposed: int) -> None:
    """37 pairs of strangers. One reaches the score of the second proposal, a share of 0.027; none that of the first."""
    crowd = [(0, 10, np.eye(9)[n], 60 * n) for n in range(9)]
    crowd[8] = (0, 10, 0.8 * np.eye(9)[7] + 0.6 * np.eye(9)[8], 480)
    seen = [(20, 30, np.eye(9)[0], 0), (20, 30, 0.79 * np.eye(9)[1] + np.sqrt(1 - 0.79**2) * -np.eye(9)[2], 60)]
    store = make_archive(tmp_path / "a", {("gate", 0.0): crowd, ("hall", 0.0): seen}, 9)
    links = propose_links(store, settings=LinkSettings(max_strangers=most))
    assert len(links) == proposed
    assert all(link.strangers is not None and link.strangers <= most for link in links)


def test_tracklets_are_linked_over_a_segment_border_by_their_shared_boxes(tmp_path: Path) -> None:
    first, second = [(0, 12, A, 0), (3, 12, B, 100)], [(10, 20, B, 100), (10, 18, A, 1), (15, 18, C, 0)]
    store = make_archive(tmp_path / "a", {("gate", 0.0): first, ("gate", 10.0): second})
    links = propose_links(store, settings=LOOSE)
    later = "1970-01-01/gate/000010.000"
    assert {(li.a, li.b, li.kind) for li in links} == {
        (f"{GATE}/1", f"{later}/2", "border"), (f"{GATE}/2", f"{later}/1", "border"),
    }  # fmt: skip
    assert identities(links) == [[f"{GATE}/1", f"{later}/2"], [f"{GATE}/2", f"{later}/1"]]


def test_identities_follow_from_links() -> None:
    def link(a: str, b: str, decision: str | None = None, kind: str = "camera") -> Link:
        return Link(a, b, kind, 0.9, None, 1.0, decision)  # type: ignore[arg-type]

    some = [link("a", "b"), link("b", "c", "confirmed"), link("d", "e", "rejected"), link("f", "g", kind="border")]
    assert identities(some) == [["a", "b", "c"], ["f", "g"]]
    assert identities(some, only_confirmed=True) == [["b", "c"], ["f", "g"]]


def test_the_timeline_is_drawn(two_cameras: Archive, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    links = propose_links(two_cameras, settings=LOOSE)
    save_timeline(list(two_cameras.tracklets()), links, tmp_path / "when.svg", "Who was seen where")
    drawn = (tmp_path / "when.svg").read_text()
    assert "gate" in drawn
    assert "hall" in drawn
    assert re.search(r"00:00:\d\d", drawn), "seconds alone could be minutes"
