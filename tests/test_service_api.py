"""The service's API: searching, answering, timelines, scores; health, documents, the Python client."""

import hashlib
import io
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")

from osnet import AttributePredictor, Where
from osnet.client import Client, ServiceError
from osnet.errors import DataError
from osnet.models.heads import AttributeHead
from osnet.service.columns import Filters, local_offsets
from osnet.service.queries import refine_query
from osnet.service.scores import CalibratedPoint, ScoreScale
from osnet.video import Archive
from small_service import API, Site, crop_file, upload


@pytest.fixture(scope="module")
def site(painted_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One service for the tests that delete nothing."""
    return Site(tmp_path_factory.mktemp("site"), painted_archive)


# Searching


def test_a_photo_search_equals_a_search_of_the_archive(site: Site) -> None:
    public = site.tracklets("camera-2")[0]
    got = upload(site, public)["hits"]
    archive = Archive.open(site.archive)
    embedder = site.service.library.embedder
    path = site.service.library.tracklet(public).best_crop.path
    want = archive.search_embedding(embedder.embed(path), weights_sha256=embedder.sha256(), top=24)
    assert [h["tracklet"].partition("~")[2].replace("~", "/") for h in got] == [h.item.source for h in want]
    assert [h["score"] for h in got] == pytest.approx([h.score for h in want], abs=1e-3)
    assert got[0]["tracklet"] == public
    assert got[0]["meaning"]["strangers"] is None
    assert "calibrat" in got[0]["meaning"]["text"]


def test_several_photos_count_as_one_person(site: Site) -> None:
    a, b = site.tracklets("camera-1")[0], site.tracklets("camera-2")[-1]
    search = upload(site, a, b)
    stored = site.service.searches.vector(search["id"])
    library = site.service.library
    units = library.embed([_open(crop_file(site, p)) for p in (a, b)])
    mean = units.mean(0) / np.linalg.norm(units.mean(0))
    np.testing.assert_allclose(stored, mean, atol=1e-5)
    want = Archive.open(site.archive).search_embedding(stored, weights_sha256=library.weights_sha256, top=24)
    assert [h["score"] for h in search["hits"]] == pytest.approx([h.score for h in want], abs=1e-4)


def _open(content: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(content)).convert("RGB")


def test_a_box_on_a_frame_finds_the_person_in_it(site: Site) -> None:
    client = site.client()
    public = site.tracklets("camera-1")[0]
    tracklet = site.service.library.tracklet(public)
    crop = tracklet.best_crop
    boxes = client.get(f"{API}/frames/camera-1/boxes", params={"time_s": crop.time_s}).json()
    assert public in {row["tracklet"] for row in boxes}
    frame = client.get(f"{API}/frames/camera-1.jpg", params={"time_s": crop.time_s})
    assert frame.headers["content-type"] == "image/jpeg"
    assert float(frame.headers["x-time"]) == pytest.approx(crop.time_s, abs=1e-3)
    given = {"boxes": [{"camera": "camera-1", "time_s": crop.time_s, "box": list(crop.box)}]}
    found = client.post(f"{API}/searches", json=given).json()["hits"]
    assert found[0]["tracklet"] == public
    assert found[0]["score"] > 0.99


def test_a_box_on_an_uploaded_photo_is_cropped(site: Site) -> None:
    tracklet = site.service.library.tracklet(site.tracklets("camera-1")[0])
    frame = site.client().get(f"{API}/frames/camera-1.jpg", params={"time_s": tracklet.best_crop.time_s}).content
    options = {"options": json.dumps({"boxes": [list(tracklet.best_crop.box)]})}
    files = [("photos", ("f.jpg", frame))]
    found = site.client().post(f"{API}/searches/photos", files=files, data=options).json()["hits"]
    assert found[0]["tracklet"] == site.tracklets("camera-1")[0]


def test_filters_by_camera_and_time(site: Site) -> None:
    public = site.tracklets("camera-1")[0]
    assert {h["camera"] for h in upload(site, public, filters={"cameras": ["camera-2"]})["hits"]} == {"camera-2"}
    c = site.service.library.columns
    border = float(np.median(c.begins))
    late = upload(site, public, filters={"after_s": border})["hits"]
    assert {h["tracklet"] for h in late} == {i for i, end in zip(c.ids, c.ends, strict=True) if end >= border}
    early = upload(site, public, filters={"before_s": border})["hits"]
    assert {h["tracklet"] for h in early} == {i for i, b in zip(c.ids, c.begins, strict=True) if b <= border}


def test_weekdays_and_hours_by_a_slow_loop(site: Site) -> None:
    library = site.service.library
    columns = library.columns
    rng = np.random.default_rng(0)
    zone = ZoneInfo("Europe/Berlin")
    begins = rng.uniform(1.7e9, 1.73e9, 400)  # over both changes of the clock
    ends = begins + rng.uniform(1, 4000, 400)
    changed = replace(
        columns,
        ids=tuple(map(str, range(400))),
        cameras=np.array(["gate"] * 400),
        begins=begins,
        ends=ends,
        local_begins=begins + local_offsets(begins, zone),
    )
    for days, first, last in (((0, 4), None, None), (None, 22.0, 6.0), ((6,), 8.5, 12.0), (None, 9.0, 9.0)):
        got = changed.passing(Filters(weekdays=days, from_hour=first, to_hour=last), lambda _: True)
        want = []
        for begin, end in zip(begins, ends, strict=True):
            start = datetime.fromtimestamp(begin, zone).replace(tzinfo=None)
            stop = datetime.fromtimestamp(begin, zone).replace(tzinfo=UTC).timestamp() + end - begin
            on_day = days is None or bool({start.weekday(), datetime.fromtimestamp(stop, UTC).weekday()} & set(days))
            at = start.hour + start.minute / 60 + start.second / 3600 + start.microsecond / 3.6e9
            inside = first is None or last is None or first == last
            if first is not None and last is not None and not inside:
                within = first <= at < last if first < last else (at >= first or at < last)
                inside = within or ((first - at) % 24) * 3600 <= end - begin
            want.append(on_day and inside)
        assert got.tolist() == want, (days, first, last)
        assert sum(want) > 0


def test_bad_filters_and_queries_are_named(site: Site) -> None:
    client, public = site.client(), site.tracklets()[0]
    for given, status, code in (
        ({}, 422, "value"),
        ({"tracklets": [public], "having": ["hat"]}, 422, "value"),
        ({"tracklets": ["archive~x~y~z~1"]}, 404, "missing"),
        ({"tracklets": [public], "filters": {"weekdays": [7]}}, 422, "value"),
        ({"tracklets": [public], "filters": {"after_s": 2, "before_s": 1}}, 422, "value"),
        ({"tracklets": [public], "case": "none"}, 404, "missing"),
        ({"tracklets": [public], "extra": 1}, 422, "value"),
        ({"boxes": [{"camera": "camera-1", "time_s": 5, "box": [0, 0, 9, 9]}]}, 404, "footage"),
        ({"having": ["hat"]}, 422, "value"),
    ):
        answer = client.post(f"{API}/searches", json=given)
        assert (answer.status_code, answer.json()["code"]) == (status, code), given
        assert answer.headers["content-type"] == "application/problem+json"
    answer = client.post(f"{API}/searches/photos", files=[("photos", ("a.jpg", b"no picture"))])
    assert (answer.status_code, answer.json()["code"]) == (422, "image")


def test_pages_of_hits_join_to_the_full_list(site: Site) -> None:
    search = upload(site, site.tracklets()[0])["id"]
    client = site.client()
    whole = [h["tracklet"] for h in client.get(f"{API}/searches/{search}/hits", params={"limit": 200}).json()["hits"]]
    assert len(whole) == len(site.service.library)
    parts: list[str] = []
    cursor = None
    while True:
        params = {"limit": 4, **({"cursor": cursor} if cursor else {})}
        page = client.get(f"{API}/searches/{search}/hits", params=params).json()
        parts += [h["tracklet"] for h in page["hits"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert parts == whole
    for wrong in ("x", "e30", "bnVsbA"):
        assert client.get(f"{API}/searches/{search}/hits", params={"cursor": wrong}).status_code == 422


def test_a_description_ranks_by_predicted_attributes(painted_archive: Path, tmp_path: Path, tiny_network: Any) -> None:
    torch.manual_seed(1)
    head = AttributeHead(512, ["backpack", "long sleeve"])
    torch.nn.init.normal_(head.linear.weight, 0, 0.2)
    site = Site(tmp_path, painted_archive)
    library = site.service.library
    library._attributes = AttributePredictor(tiny_network, device="cpu", head=head)
    client = site.client()
    assert client.get(f"{API}/attributes").json() == ["backpack", "long sleeve"]
    given = {"having": ["backpack"], "lacking": ["Long sleeves"]}
    assert client.post(f"{API}/searches", json=given).json()["hits"] == []  # nothing is described yet
    site.service.jobs.add("attributes", "service", "", {})
    site.wait_for_jobs()
    want = {}
    for public in site.tracklets():
        crops = [crop.path for crop in library.tracklet(public).crops]
        p = library._attributes.predict(crops).probabilities.mean(0)
        want[public] = float(np.sqrt(p[0] * (1 - p[1])))
    hits = client.post(f"{API}/searches", json=given).json()["hits"]
    assert [h["score"] for h in hits] == pytest.approx(sorted(want.values(), reverse=True), abs=1e-3)
    assert {h["tracklet"]: h["score"] for h in hits} == pytest.approx(want, abs=1e-3)
    assert "not a share" in hits[0]["meaning"]["text"]
    # An answer turns it into a search by appearance.
    search = client.get(f"{API}/searches").json()["searches"][0]["id"]
    target = hits[-1]["tracklet"]
    after = client.post(f"{API}/searches/{search}/answers", json={"tracklet": target, "answer": "yes"}).json()["hits"]
    assert after[0]["tracklet"] == target
    assert client.post(f"{API}/searches", json={"having": ["beard"]}).status_code == 422
    # What was predicted is stored, and read again at the next start.
    stored = site.service.database.all("SELECT tracklet FROM attributes")
    assert {row["tracklet"] for row in stored} == set(site.tracklets())


# Answers


def test_probabilities_that_arrive_during_a_refresh_stay(painted_archive: Path, tmp_path: Path) -> None:
    library = Site(tmp_path, painted_archive).service.library
    first, second = library.columns.ids[:2]
    arriving = threading.Thread(target=library.set_probabilities, args=({second: [0.5]},))

    class Known(dict[str, list[float]]):
        def items(self) -> Any:
            known = list(super().items())
            arriving.start()
            arriving.join(0.2)
            return known

    library._probabilities = Known({first: [0.25], "of/no/tracklet": [0.75]})
    assert library.refresh(force=True)
    arriving.join()
    assert library._probabilities == {first: [0.25], second: [0.5]}


def test_feedback_follows_rocchios_rule(site: Site) -> None:
    query, yes, no = np.eye(4, dtype=np.float32)[:3]
    want = query + 0.75 * yes - 0.15 * no
    np.testing.assert_allclose(refine_query(query, [yes], [no]), want / np.linalg.norm(want), atol=1e-6)
    np.testing.assert_array_equal(refine_query(query, [], []), query)


def test_answers_rerank_the_hits_are_stored_and_can_be_undone(site: Site) -> None:
    client, search = site.client(), upload(site, site.tracklets()[0])["id"]
    before = client.get(f"{API}/searches/{search}/hits", params={"limit": 200}).json()["hits"]
    target = before[-1]["tracklet"]

    def say(tracklet: str, answer: str) -> list[dict[str, Any]]:
        got = client.post(f"{API}/searches/{search}/answers", json={"tracklet": tracklet, "answer": answer})
        assert got.status_code == 200, got.text
        hits: list[dict[str, Any]] = client.get(f"{API}/searches/{search}/hits", params={"limit": 200}).json()["hits"]
        return hits

    place = {h["tracklet"]: h["place"] for h in say(target, "yes")}
    assert place[target] < len(before)  # it moved up, and so did those like it
    after_no = say(before[0]["tracklet"], "no")
    said = {h["tracklet"]: (h["answer"], h["answered_by"]) for h in after_no if h["answer"]}
    assert said == {target: ("yes", "root"), before[0]["tracklet"]: ("no", "root")}
    assert {h["tracklet"]: h["score"] for h in after_no} == {h["tracklet"]: h["score"] for h in before}
    say(target, "undone")
    again = say(before[0]["tracklet"], "undone")
    assert [h["tracklet"] for h in again] == [h["tracklet"] for h in before]
    history = client.get(f"{API}/searches/{search}/answers").json()
    assert [row["answer"] for row in history] == ["yes", "no", "undone", "undone"]
    nothing = client.post(f"{API}/searches/{search}/answers", json={"tracklet": target, "answer": "undone"})
    assert nothing.status_code == 422


def test_a_timeline_connects_confirmed_appearances(site: Site) -> None:
    client, search = site.client(), upload(site, site.tracklets()[0])["id"]
    a, b = site.tracklets("camera-1")[0], site.tracklets("camera-2")[-1]
    for public in (b, a):
        client.post(f"{API}/searches/{search}/answers", json={"tracklet": public, "answer": "yes"})
    found = client.get(f"{API}/searches/{search}/timeline").json()
    confirmed = [one for one in found["appearances"] if one["confirmed"]]
    assert [one["id"] for one in confirmed] == [a, b]
    assert [one["begin_s"] for one in found["appearances"]] == sorted(one["begin_s"] for one in found["appearances"])
    first, second = (site.service.library.tracklet(public) for public in (a, b))
    assert [(w["start"], w["stop"]) for w in found["ways"]] == [(a, b)]
    assert found["ways"][0]["seconds"] == pytest.approx(second.begin_s - first.end_s)


def test_travel_times_are_learnt_from_three_confirmed_pairs(painted_archive: Path, tmp_path: Path) -> None:
    site = Site(tmp_path, painted_archive)
    pairs = list(zip(site.tracklets("camera-1"), site.tracklets("camera-2"), strict=False))[:3]
    gaps = []
    for a, b in pairs:
        assert site.service.timelines.learn_ways() == {}
        search = upload(site, a)["id"]
        for public in (a, b):
            site.service.searches.answer(site.actor(), search, public, "yes")
        first, second = sorted((site.service.library.tracklet(p) for p in (a, b)), key=lambda t: t.begin_s)
        gaps.append(second.begin_s - first.end_s)
    learnt = site.service.timelines.learn_ways()[frozenset(("camera-1", "camera-2"))]
    assert learnt.min_s == pytest.approx(min(gaps) / 2 if min(gaps) > 0 else min(gaps) * 2)
    assert learnt.max_s == pytest.approx(max(0, max(gaps) * 2))


# Scores


def test_scores_are_explained_by_the_calibration(tmp_path: Path) -> None:
    scale = ScoreScale((CalibratedPoint(0.5, 0.01, "val"), CalibratedPoint(0.7, 0.001, "val")))
    strong, middle, weak = (scale.explain(score, 3) for score in (0.7, 0.6, 0.4))
    assert strong.strangers == pytest.approx(0.003)
    assert "1 in 1,000" in strong.text
    assert middle.strangers == pytest.approx(0.03)
    assert "1 in 100" in middle.text
    assert weak.strangers == 1.0
    assert ScoreScale().explain(0.9, 3).strangers is None
    base = {"asked": 0.001, "threshold": 0.6, "false_positives": {"mean": 0.0008}, "dataset": "d"}
    good = {**base, "kind": "verification", "weights": {"network_sha256": "a"}}
    for content, named in (
        ({**good, "kind": "identification"}, "identification"),
        ({**good, "weights": {"network_sha256": "b" * 12}}, "bbbb"),
        ({}, "calibration"),
    ):
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=named):
            ScoreScale.read((path,), "a")
    path.write_text(json.dumps(good))
    assert ScoreScale.read((path,), "a").points == (CalibratedPoint(0.6, 0.001, "d"),)


# Health, documents, the client


def test_health_readiness_and_metrics(site: Site) -> None:
    anybody = site.client(None)
    assert anybody.get("/healthz").json() == {"status": "alive"}
    assert anybody.get("/readyz").json()["ready"] is True
    assert anybody.get("/metrics").status_code == 401
    text = site.client(scopes=["metrics"]).get("/metrics").text
    assert f"osnet_tracklets {float(len(site.service.library))}" in text
    assert 'osnet_http_requests_total{method="GET",status="200"}' in text


def test_the_openapi_document_has_examples_and_errors(site: Site) -> None:
    document = site.client(None).get(f"{API}/openapi.json").json()
    assert document["openapi"].startswith("3.")
    text = json.dumps(document["components"]["schemas"]["SearchIn"])
    assert "archive~2026-11-28~gate~081400.000~1" in text
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (path, method)
            for status in ("401", "403", "404", "422"):
                assert "application/problem+json" in operation["responses"][status]["content"], (path, method, status)


def test_the_client_returns_the_librarys_types(site: Site, tmp_path: Path) -> None:
    class Sync(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            got = web.request(request.method, str(request.url), content=request.read(), headers=dict(request.headers))
            return httpx.Response(got.status_code, headers=got.headers, content=got.content, request=request)

    web = site.client(None)
    public = site.tracklets("camera-2")[0]
    photo = site.service.library.tracklet(public).best_crop.path
    with Client("http://127.0.0.1", site.token(), transport=Sync()) as client:
        assert client.cameras() == ["camera-1", "camera-2"]
        search = client.search([photo], where=Where(cameras=frozenset({"camera-2"})), reason="test")
        assert search.hits[0].item.source == public
        assert {hit.item.camera for hit in search.hits} == {"camera-2"}
        assert [h.item.source for h in client.hits(search.id)] == [h.item.source for h in search.hits]
        assert client.answer(search.id, public, "yes")[0].item.camera == "camera-2"
        case = client.create_case("of the client")
        client.save_clip(public, tmp_path / "c.mp4")
        assert (tmp_path / "c.mp4").read_bytes()[4:8] == b"ftyp"
        with pytest.raises(ServiceError, match="no case") as refused:
            client.search(tracklets=[public], case="nothing")
        assert (refused.value.status, refused.value.code) == (404, "missing")
        again = client.search(tracklets=[public], case=case)
        client.answer(again.id, public, "yes")
        digest = client.export_case(case, tmp_path / "case.zip", "court")
        assert hashlib.sha256((tmp_path / "case.zip").read_bytes()).hexdigest() == digest
        assert client.preview_erasure([public])["num_crops"] >= 1
