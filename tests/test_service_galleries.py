"""A service over a gallery and an archive: crops are found with source, camera and identity, and erased; which pictures
may be shown.
"""

import io
import json
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from osnet import Embedder, Gallery
from osnet.client import Client
from osnet.errors import GalleryError
from osnet.service.columns import Filters
from osnet.service.core import Service, ServiceOptions
from osnet.types import Item
from small_service import API, CHEAP, Site

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def crops(painted_archive: Path, tmp_path: Path) -> list[Path]:
    """Pictures outside of any archive, one of each tracklet of camera-1."""
    found = []
    for number, path in enumerate(sorted(painted_archive.glob("*/camera-1/*/crops/*-1.jpg"))):
        target = tmp_path / "crops" / f"person {number}.jpg"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
        found.append(target)
    return found


@pytest.fixture
def gallery(crops: list[Path], tiny_weights: Path, tmp_path: Path) -> Path:
    """Of these crops: the first with everything known, the second with nothing, the third with a recording's time."""
    items = [Item(str(crops[0]), "anna", "gate", NOON), Item(str(crops[1])), Item(str(crops[2]), None, "hall", 12.5)]
    items += [Item(str(path), f"p{n}", "gate", NOON - 86400 * n) for n, path in enumerate(crops[3:], 3)]
    Gallery.open(tmp_path / "people", Embedder(tiny_weights, device="cpu", backend="torch")).add(items)
    return tmp_path / "people"


def make_site(tmp_path: Path, *folders: Path, **options: Any) -> Site:
    site = Site(tmp_path, folders[0], archives=folders, **options)
    return site


def find(site: Site, photo: Path, name: str = "root", **options: Any) -> dict[str, Any]:
    files = [("photos", ("p.jpg", photo.read_bytes()))]
    answer = site.client(name).post(f"{API}/searches/photos", files=files, data={"options": json.dumps(options)})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_photo_gives_the_hits_and_scores_of_the_gallerys_own_search(
    gallery: Path, crops: list[Path], tmp_path: Path
) -> None:
    site = make_site(tmp_path, gallery)
    hits = find(site, crops[0])["hits"]
    embedder = site.service.library.embedder
    own = Gallery.open(gallery).search_embedding(
        embedder.embed(crops[0]), weights_sha256=embedder.sha256(), top=len(hits)
    )
    assert [hit["source"] for hit in hits] == [hit.item.source for hit in own]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in own], abs=1e-3)
    first = hits[0]
    assert (first["kind"], first["source"], first["camera"], first["identity"]) == (
        "crop",
        str(crops[0]),
        "gate",
        "anna",
    )
    assert first["begin_s"] == NOON
    assert first["clip"] is None
    by_source = {hit["source"]: hit for hit in hits}
    unknown, recorded = by_source[str(crops[1])], by_source[str(crops[2])]
    assert (unknown["camera"], unknown["begin_s"], unknown["begin"]) == ("", None, "time unknown")
    assert (recorded["begin_s"], recorded["begin"]) == (12.5, "12.5 s of the recording")
    client = site.client()
    picture = client.get(first["thumbnail"])
    with Image.open(io.BytesIO(picture.content)) as shown, Image.open(crops[0]) as file:
        assert shown.size == file.size
    assert client.get(f"{API}/tracklets/{first['tracklet']}/clip.mp4").status_code == 404
    assert client.get(f"{API}/tracklets/{first['tracklet']}").json()["source"] == str(crops[0])
    why = client.get(f"{API}/tracklets/{first['tracklet']}/why.png", params={"search": find(site, crops[0])["id"]})
    assert why.headers["content-type"] == "image/png"
    assert {row["camera"] for row in client.get(f"{API}/cameras").json()} == {"gate", "hall"}
    with Client("http://127.0.0.1", "x") as python:
        python._http = client
        client.base_url = "http://127.0.0.1/api/v1"
        hit = python.search([crops[0]]).hits[0]
        assert (hit.item.identity, hit.item.camera, hit.item.time_s) == ("anna", "gate", NOON)


def test_filters_and_roles(gallery: Path, crops: list[Path], tmp_path: Path) -> None:
    """An unknown camera or time passes no filter of it; a recording's time is not a time of day."""
    site = make_site(tmp_path, gallery)
    columns = site.service.library.columns

    def passing(**filters: Any) -> set[int]:
        return set(np.flatnonzero(columns.passing(Filters(**filters), lambda _: True)).tolist())

    everything = set(range(len(crops)))
    assert passing() == everything
    assert passing(cameras=("hall",)) == {2}
    assert passing(after_s=NOON - 1) == {0}
    assert passing(before_s=100.0) == {2}
    assert passing(from_hour=11.0, to_hour=13.0) == everything - {1, 2}
    assert passing(weekdays=(5,)) == {n for n in everything - {1, 2} if n % 7 == 0}  # 2026-11-28 is a Saturday
    client = site.client()
    client.put(f"{API}/roles", json={"name": "hall only", "kind": "operator", "cameras": ["hall"]})
    site.add("hans", "hall only")
    hits = find(site, crops[0], "hans")["hits"]
    assert [hit["source"] for hit in hits] == [str(crops[2])]
    other = find(site, crops[0])["hits"][0]["tracklet"]
    assert site.client("hans").get(f"{API}/tracklets/{other}").status_code == 404


def test_a_gallery_beside_an_archive(gallery: Path, crops: list[Path], painted_archive: Path, tmp_path: Path) -> None:
    site = make_site(tmp_path, painted_archive, gallery)
    hits = find(site, crops[0])["hits"]
    assert hits[0]["kind"] == "crop"
    assert hits[0]["score"] > 0.99  # the picture itself
    pair = [hits[0], next(hit for hit in hits if hit["kind"] == "tracklet")]
    search = find(site, crops[0])["id"]
    client, browser = site.client(), site.browser()
    for hit in pair:
        given = {"tracklet": hit["tracklet"], "answer": "yes"}
        assert client.post(f"{API}/searches/{search}/answers", json=given).status_code == 200
    timeline = client.get(f"{API}/searches/{search}/timeline").json()
    assert {a["id"] for a in timeline["appearances"] if a["confirmed"]} == {hit["tracklet"] for hit in pair}
    case = client.post(f"{API}/cases", json={"title": "both"}).json()["id"]
    client.post(f"{API}/cases/{case}/searches", json={"search": search})
    for path in (
        "/",
        f"/searches/{search}",
        f"/searches/{search}/timeline",
        f"/cases/{case}",
        f"/erase?search={search}",
        *(f"/tracklets/{hit['tracklet']}?search={search}" for hit in hits),
        "/retention",
        "/live",
    ):
        page = browser.get(path)
        assert page.status_code == 200, path
        assert ">nan" not in page.text, path
    assert browser.get("/footage/gate").status_code == 404
    exported = client.post(f"{API}/cases/{case}/export", json={"reason": "r"})
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        of_crop = [one for one in manifest["files"] if one.get("source") == str(crops[0])]
        assert [one["identity"] for one in of_crop] == ["anna"]
        assert str(crops[0]) in archive.read("report.html").decode()
    by_crop = client.post(f"{API}/searches", json={"tracklets": [hits[0]["tracklet"]]}).json()["hits"]
    assert by_crop[0]["score"] > 0.999


def test_a_crop_is_erased_from_gallery_and_state(gallery: Path, crops: list[Path], tmp_path: Path) -> None:
    """Its embedding and source are in no file afterwards; the same picture under another name goes too."""
    twin = tmp_path / "crops" / "copy.jpg"
    shutil.copy(crops[0], twin)
    opened = Gallery.open(gallery)
    vector = opened.embeddings([str(crops[0])])
    opened.add_embeddings(vector, [Item(str(twin))], weights_sha256=opened.weights_sha256)
    opened.add_embeddings(opened.embeddings([str(crops[1])]), [Item("stays")], weights_sha256=opened.weights_sha256)
    site = make_site(tmp_path, gallery)
    client = site.client()
    search = find(site, crops[0])
    public = search["hits"][0]["tracklet"]
    client.post(f"{API}/searches/{search['id']}/answers", json={"tracklet": public, "answer": "yes"})
    pieces = [vector[0].tobytes()[start : start + 24] for start in range(0, 2048, 24) if vector[0][start // 4]]
    sources = [str(crops[0]).encode(), str(twin).encode()]

    def holders(needles: list[bytes], *folders: Path) -> set[str]:
        places = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return {path.name for path in places if any(needle in path.read_bytes() for needle in needles)}

    state = tmp_path / "state"
    assert len(holders([*pieces, public.encode()], gallery, state)) >= 2  # the control: gallery and state hold them
    assert holders(sources, gallery)
    given = {"tracklets": [public], "searches": [search["id"]]}
    plan = client.post(f"{API}/erasures/preview", json=given).json()
    assert len(plan["twins"]) == 1
    assert plan["num_crops"] == 2
    assert plan["out_of_reach"]["pictures"] == sorted([str(crops[0]), str(twin)])
    job = client.post(f"{API}/erasures", json={**given, "digest": plan["digest"], "reason": "asked"}).json()["job"]
    site.wait_for_jobs()
    report = client.get(f"{API}/jobs/{job}").json()["report"]
    assert report["removed"]["gallery_crops"] == 2
    assert report["check"]["found"] == []
    assert report["check"]["galleries"][0]["bytes"] > 0
    site.service.database.close()
    assert holders([*pieces, public.encode()], gallery, state) == set()
    assert holders(sources, gallery) == set()  # the state's report names them: it cannot reach the pictures
    again = Gallery.open(gallery)
    assert again.count() == len(crops)
    assert "stays" in again.sources()
    assert not {str(crops[0]), str(twin)} & again.sources()
    assert crops[0].exists()


def test_times_outside_the_calendar_are_served(crops: list[Path], tiny_weights: Path, tmp_path: Path) -> None:
    """A gallery holds any finite number, such as milliseconds."""
    items = [Item(str(crops[0]), "a", "gate", 1000 * NOON), Item(str(crops[1]), "b", "gate", 1e300)]
    items += [Item(str(crops[2]), "c", "gate", -1e300), Item(str(crops[3]), "d", "gate", NOON)]
    Gallery.open(tmp_path / "odd", Embedder(tiny_weights, device="cpu", backend="torch")).add(items)
    site = make_site(tmp_path, tmp_path / "odd", zone="Europe/Berlin")
    hits = find(site, crops[0])["hits"]
    assert {hit["identity"]: hit["begin_s"] for hit in hits} == {i.identity: i.time_s for i in items}
    saturday = find(site, crops[0], filters={"weekdays": [5], "from_hour": 12, "to_hour": 14})["hits"]
    assert {hit["identity"] for hit in saturday} == {"d"}
    search = find(site, crops[0])["id"]
    assert site.client().get(f"{API}/searches/{search}/timeline").status_code == 200
    assert site.browser().get(f"/searches/{search}/timeline").status_code == 200


def test_retention_deletes_old_crops_and_keeps_those_without_a_date(
    gallery: Path, crops: list[Path], tmp_path: Path
) -> None:
    site = make_site(tmp_path, gallery)
    site.clock.ahead = NOON + 86400 * 5.5 - site.clock()  # so many days after the newest crop
    client = site.client()
    client.put(f"{API}/settings/maximum_days", json={"value": 10})
    old = {str(path) for n, path in enumerate(crops[3:], 3) if n + 5.5 > 10}
    assert old
    with site.service.database.write() as tx:
        tx.run("UPDATE audit SET at_s = 0")  # the log's clock is this machine's
    report = site.service.retention.run("test")
    assert report["gallery_crops"] == len(old)
    assert Gallery.open(gallery).sources() == {str(path) for path in crops} - old


def test_only_the_picture_that_was_indexed_is_shown(
    gallery: Path, crops: list[Path], tmp_path: Path, tiny_weights: Path
) -> None:
    site = make_site(tmp_path, gallery)
    client = site.client()
    first = find(site, crops[0])["hits"][0]
    for change in ("other content", "gone"):
        if change == "gone":
            crops[0].unlink()
        else:
            Image.new("RGB", (64, 128)).save(crops[0])
        hit = next(h for h in find(site, crops[3])["hits"] if h["tracklet"] == first["tracklet"])
        assert hit["thumbnail"] is None, change
        assert client.get(f"{API}/tracklets/{first['tracklet']}/crops/1.jpg").status_code == 404, change
        assert site.browser().get(f"/tracklets/{first['tracklet']}").status_code == 200, change
    by_crop = client.post(f"{API}/searches", json={"tracklets": [first["tracklet"]]})
    assert by_crop.json()["hits"][0]["score"] > 0.999  # by its embedding, which is still there
    # moved as a whole: found by name and content in a folder that is given
    shutil.move(tmp_path / "crops", tmp_path / "moved")
    moved = make_site(tmp_path / "second", gallery, footage=(tmp_path / "moved",))
    thumbnails = {h["source"]: h["thumbnail"] for h in find(moved, tmp_path / "moved" / crops[3].name)["hits"]}
    assert thumbnails.pop(str(crops[0])) is None
    assert all(thumbnails.values())


def test_a_gallery_from_elsewhere_cannot_name_pictures_of_this_machine(
    crops: list[Path], tiny_weights: Path, tmp_path: Path
) -> None:
    """Without the stamp of an indexed file, only what lies in a folder for pictures is shown; no link leads out."""
    embedder = Embedder(tiny_weights, device="cpu", backend="torch")
    link = tmp_path / "public" / "link.jpg"
    link.parent.mkdir()
    link.symlink_to(crops[1])
    inside = tmp_path / "public" / "inside.jpg"
    shutil.copy(crops[2], inside)
    names = [
        str(crops[0]),
        str(link),
        str(inside),
        str(tmp_path / "public" / ".." / "crops" / crops[3].name),
        "x" * 9000,
    ]
    opened = Gallery.open(tmp_path / "foreign", embedder)
    opened.add_embeddings(
        embedder.embed(crops[: len(names)]), [Item(name) for name in names], weights_sha256=embedder.sha256()
    )
    for options, shown in (({}, set()), ({"footage": (tmp_path / "public",)}, {str(inside)})):
        site = make_site(tmp_path / f"site-{len(shown)}", tmp_path / "foreign", **options)
        hits = find(site, crops[4])["hits"]
        assert {hit["source"] for hit in hits if hit["thumbnail"]} == shown
        assert len(hits) == len(names)


def test_new_crops_are_seen_and_a_gallery_that_is_gone_is_named(
    gallery: Path, crops: list[Path], tmp_path: Path
) -> None:
    site = make_site(tmp_path, gallery)
    assert not site.service.library.refresh()
    opened = Gallery.open(gallery)
    opened.add_embeddings(opened.embeddings([str(crops[0])]), [Item("new")], weights_sha256=opened.weights_sha256)
    assert site.service.library.refresh()
    assert len(site.service.library) == len(crops) + 1
    shutil.move(gallery, tmp_path / "elsewhere")
    ready = site.client(None).get("/readyz")
    assert ready.status_code == 503
    assert "people" in ready.text
    source = site.client().post(f"{API}/sources", json={"camera": "new", "address": "http://example.org/s"})
    assert source.status_code == 422  # a gallery takes no footage


def test_folders_that_cannot_be_served_together(
    gallery: Path, painted_archive: Path, tmp_path: Path, tiny_network: Any
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(GalleryError, match="empty"):
        Service(ServiceOptions((tmp_path / "empty",), tmp_path / "s"), hasher=CHEAP)
    other = Gallery.create(tmp_path / "other", weights_sha256="0" * 64, embedding_size=512)
    other.add_embeddings(np.eye(512, dtype=np.float32)[:1], [Item("a")], weights_sha256="0" * 64)
    with pytest.raises(GalleryError, match="000000000000"):
        Service(ServiceOptions((painted_archive, tmp_path / "other"), tmp_path / "s"), hasher=CHEAP)
    with pytest.raises(GalleryError, match="copy"):
        Service(ServiceOptions((tmp_path / "other",), tmp_path / "s"), hasher=CHEAP)
