"""Erasing a person: no file holds the bytes, other people's data is unchanged, an interrupted run is finished."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

from osnet.errors import GalleryError
from osnet.service import audit
from osnet.service.erasure import picture_pieces, vector_piece
from osnet.video import Archive, erasing
from osnet.video.links import DECISIONS_FILE, Link, decide, read_decisions, read_links, write_links
from small_service import API, Site, copy_archive, crop_file


@pytest.fixture
def site(painted_archive: Path, tmp_path: Path) -> Site:
    return Site(tmp_path, copy_archive(painted_archive, tmp_path))


def files_with(folder: Path, pieces: list[bytes]) -> list[str]:
    """Every file below a folder that holds one of these bytes."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            found += [str(path.relative_to(folder)) for piece in pieces if piece in content][:1]
    return found


def test_a_person_is_erased_from_every_file(site: Site, tmp_path: Path) -> None:
    """Vectors, crops, thumbnails, links, decisions, hits, answers, queries, log, kept answers of the API."""
    client = site.client()
    archive = Archive.open(site.archive)
    public, other = site.tracklets("camera-1")[0], site.tracklets("camera-2")[0]
    inner, inner_other = (p.partition("~")[2].replace("~", "/") for p in (public, other))
    write_links(archive, [Link(inner, inner_other, "camera", 0.9, None, 5.0)])
    decide(archive, inner, inner_other, "confirmed", by="anna")
    case = client.post(f"{API}/cases", json={"title": "case"}).json()["id"]
    photo = [("photos", ("p.jpg", crop_file(site, public)))]
    key = {"Idempotency-Key": "key-of-the-search"}
    search = client.post(f"{API}/searches/photos", files=photo, headers=key).json()["id"]
    client.post(f"{API}/searches/{search}/answers", json={"tracklet": public, "answer": "yes"})
    client.post(f"{API}/cases/{case}/searches", json={"search": search})
    by_tracklet = client.post(f"{API}/searches", json={"tracklets": [public], "case": case}).json()["id"]
    unrelated = client.post(f"{API}/searches", json={"tracklets": [other]}).json()["id"]
    client.get(f"{API}/tracklets/{public}/clip.mp4")
    client.post(f"{API}/cases/{case}/export", json={"reason": "court"})

    plan = client.post(f"{API}/erasures/preview", json={"tracklets": [public], "searches": [search]}).json()
    erased = [row["id"] for row in plan["tracklets"]]
    assert public in erased
    assert plan["num_searches"] == 2  # the one named, and the one made from the tracklet
    assert plan["num_crops"] == sum(len(site.service.library.tracklet(i).crops) for i in erased)
    assert plan["cases"] == ["case"]
    assert len(plan["out_of_reach"]["exports"]) == 1
    assert any("camera-1.mp4" in passage for passage in plan["out_of_reach"]["footage"])

    pieces: list[bytes] = []
    for one in erased:
        tracklet = site.service.library.tracklet(one)
        pieces += [one.encode() + b'"']
        for crop in tracklet.crops:
            pieces += picture_pieces(crop.path.read_bytes())
        rows = [*site.service.library.vectors(one), site.service.library.mean(one)]
        pieces += [piece for row in rows if (piece := vector_piece(row))]
    for row in site.service.database.all("SELECT jpeg, vector FROM queries WHERE search = ?", search):
        pieces += [*picture_pieces(bytes(row["jpeg"])), vector_piece(np.frombuffer(row["vector"], "<f4")) or b""]
    assert all(pieces)
    before = files_with(tmp_path, pieces)  # the control: they are found, in archive and state
    assert any("vectors.npy" in name for name in before)
    assert any(name.endswith(".jpg") for name in before)
    assert any(name.startswith("state/state.sqlite") for name in before)

    stays = {p: crop_file(site, p) for p in site.tracklets() if p not in erased}
    vectors = {p: site.service.library.vectors(p) for p in stays}
    given = {"tracklets": erased, "searches": [search], "digest": "0" * 16, "reason": "asked"}
    assert client.post(f"{API}/erasures", json=given).status_code == 422  # not what was seen
    plan = client.post(f"{API}/erasures/preview", json={"tracklets": erased, "searches": [search]}).json()
    job = client.post(f"{API}/erasures", json={**given, "digest": plan["digest"]}).json()["job"]
    site.wait_for_jobs()
    report = client.get(f"{API}/jobs/{job}").json()["report"]
    assert report["check"]["found"] == []
    assert report["check"]["pieces"] > 10
    assert report["removed"]["links"] == 2
    assert report["rewritten"]
    assert len(report["out_of_reach"]["exports"]) == 1

    assert files_with(tmp_path, pieces) == []
    assert files_with(tmp_path, [b"key-of-the-search"]) == []
    assert client.get(f"{API}/tracklets/{public}").status_code == 404
    assert client.get(f"{API}/searches/{search}").status_code == 404
    assert client.get(f"{API}/searches/{by_tracklet}").status_code == 404
    assert client.get(f"{API}/searches/{unrelated}").status_code == 200
    again = Archive.open(site.archive)
    assert (read_links(again), read_decisions(again)) == ([], {})
    assert again.check() == []
    assert set(site.tracklets()) == set(stays)
    for one, content in stays.items():  # with the same ids, crops and vectors
        assert crop_file(site, one) == content
        np.testing.assert_array_equal(site.service.library.vectors(one), vectors[one])
    assert audit.verify(site.service.database).is_whole
    assert audit.list_entries(site.service.database, limit=1000)


def test_remaining_copies_are_reported(site: Site) -> None:
    """The check is no formality: a copy in a file beside the segments is found and named."""
    public = site.tracklets("camera-2")[0]
    tracklet = site.service.library.tracklet(public)
    shutil.copy(tracklet.best_crop.path, site.archive / "copy.jpg")
    plan = site.service.erasure.plan(site.actor(), [public])
    report = site.service.erasure.run("root", "asked", vars(plan))
    assert report["check"]["found"] == [f"picture in {site.archive.name}/copy.jpg"]


def test_twins_in_the_overlap_of_segments_are_found(site: Site) -> None:
    archive = Archive.open(site.archive)
    by_segment: dict[str, list[str]] = {}
    for tracklet in archive.tracklets():
        by_segment.setdefault(tracklet.id.rpartition("/")[0], []).append(tracklet.id)
    twins = {i: erasing.find_twins(archive, [i]) for i in archive.sources()}
    assert any(twins.values())
    for one, found in twins.items():
        for other in found:
            assert one.rpartition("/")[0] != other.rpartition("/")[0]
            assert one in erasing.find_twins(archive, [other])


STEPS = ("before", "moved away", "in place")


@pytest.mark.parametrize("step", STEPS)
def test_an_erasure_killed_between_two_steps_is_finished(
    site: Site, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = site.tracklets("camera-1")[0]
    name, inner = "archive", public.partition("~")[2].replace("~", "/")
    del name
    before = Archive.open(site.archive).sources()
    renames = 0
    rename = Path.rename

    def die(path: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == STEPS.index(step) + 1 and step != "in place":
            raise KeyboardInterrupt
        return rename(path, target)

    def die_in_rmtree(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", die)
    if step == "in place":
        real = shutil.rmtree
        monkeypatch.setattr(
            erasing.shutil, "rmtree", lambda p, *a, **k: die_in_rmtree() if erasing.OLD in str(p) else real(p, *a, **k)
        )
    with pytest.raises(KeyboardInterrupt):
        erasing.remove_tracklets(Archive.open(site.archive), [inner])
    monkeypatch.undo()
    erasing.finish_erasing(site.archive)
    now = Archive.open(site.archive)
    assert now.check() == []
    assert now.sources() in (before, before - {inner})
    assert (now.sources() == before) == (step == "before")
    assert not list(site.archive.glob("*/*/.eras*"))
    erasing.remove_tracklets(now, [inner])  # again, as the job does at the next start
    assert Archive.open(site.archive).sources() == before - {inner}


@pytest.mark.parametrize("renames", [0, 1])
def test_a_service_that_starts_during_an_erasure_changes_nothing(
    site: Site, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the new segment takes the place of the old one, and when the old one has just left it."""
    archive = Archive.open(site.archive)
    before, rename, done = archive.sources(), Path.rename, []

    def interfere(path: Path, target: Path) -> Path:
        done.append(path)
        if len(done) == renames + 1:
            erasing.finish_erasing(site.archive)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interfere)
    erasing.remove_tracklets(archive, [min(before)])
    monkeypatch.undo()
    now = Archive.open(site.archive)
    assert now.sources() == before - {min(before)}
    assert now.check() == []


def test_tracklets_can_be_erased_one_by_one(site: Site) -> None:
    archive = Archive.open(site.archive)
    first = archive.segments[0]["name"]
    ids = sorted(i for i in archive.sources() if i.startswith(first))
    for number, one in enumerate(ids, 1):
        removal = erasing.remove_tracklets(Archive.open(site.archive), [one])
        assert removal.tracklets == [one]
        archive = Archive.open(site.archive)
        assert archive.check() == []
        assert sorted(i for i in archive.sources() if i.startswith(first)) == ids[number:]
    with pytest.raises(GalleryError):
        archive.tracklet(ids[0])
    assert erasing.remove_tracklets(archive, ids).tracklets == []


def test_an_interrupted_erasure_runs_at_the_next_start(site: Site, tmp_path: Path) -> None:
    public = site.tracklets("camera-1")[0]
    plan = site.service.erasure.plan(site.actor(), [public])
    job = site.service.jobs.add("erasure", "root", "asked", {**vars(plan)})
    with site.service.database.write() as tx:
        tx.run("UPDATE jobs SET state = 'running' WHERE id = ?", job)
    site.service.database.close()
    again = Site.__new__(Site)
    from osnet.service.core import Service

    again.service = Service(site.service.options, site.clock)
    again.service.jobs.start()
    while again.service.jobs.get(site.actor(), job)["state"] != "done":
        pass
    again.service.jobs.stop()
    assert public not in again.service.library.columns.place
    row = again.service.database.one("SELECT input, report FROM jobs WHERE id = ?", job)
    assert row is not None
    assert row["input"] == "{}"
    assert json.loads(row["report"])["check"]["found"] == []


def test_decisions_on_other_people_stay(site: Site) -> None:
    archive = Archive.open(site.archive)
    a, b, c = sorted(archive.sources())[:3]
    decide(archive, a, b, "confirmed", by="anna")
    decide(archive, b, c, "rejected", by="bert")
    line = (site.archive / DECISIONS_FILE).read_text().splitlines()[1]
    erasing.remove_tracklets(archive, [a])
    assert [json.loads(li) for li in (site.archive / DECISIONS_FILE).read_text().splitlines()] == [json.loads(line)]
