"""Faults that a long review left: clocks, limits, probes, damaged pictures, copies, warnings, the Hub."""

import io
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from conftest import make_picture, write_picture
from osnet import Embedder, create_model, load_weights
from osnet.cli import main
from osnet.cli.common import warn_once
from osnet.data.check import find_unreadable
from osnet.data.damage import find_damage
from osnet.embedding.class_predictor import ClassPredictor, known_classes
from osnet.errors import DataError, ImageError, ImageWarning, OutputError
from osnet.evaluation.checks import warn_about_copies
from osnet.evaluation.evaluate import evaluate, evaluate_features
from osnet.features.labels import LabelledVectors
from osnet.types import Crop, Split
from osnet.weights.card import Card
from osnet.weights.checkpoint import Checkpoint, save_weights

DAY = 86_400.0
API = "/api/v1"


# The service's clock


@pytest.fixture
def site(painted_archive: Path, tmp_path: Path) -> Any:
    pytest.importorskip("fastapi")
    from small_service import Site, copy_archive

    return Site(tmp_path, copy_archive(painted_archive, tmp_path))


def keep_all(site: Any) -> None:
    """Footage of the archive and searches are kept ten years, less than the wrong clock of these tests is ahead."""
    assert site.client().put(f"{API}/settings/maximum_days", json={"value": 3650}).status_code == 204


def test_nothing_is_deleted_while_the_clock_is_far_ahead_and_the_service_recovers(site: Any) -> None:
    keep_all(site)
    retention = site.service.retention
    retention.note_clock()
    before = site.tracklets()
    site.clock.ahead = 4000 * DAY
    retention.note_clock()  # each hour: a wrong time is not kept
    assert retention.old()  # all of it is too old, says the clock
    assert retention.due() == []
    client = site.client()
    with site.service.database.write() as tx:  # the log's clock is this machine's
        tx.run("UPDATE audit SET at_s = ? WHERE seq = (SELECT MAX(seq) FROM audit)", site.clock())
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "days after the last time" in ready.text
    assert "page Retention" in ready.text
    browser = site.browser()
    page = browser.get("/retention").text
    assert 'action="/retention/clock"' in page
    assert "days after the last time" in page
    job = browser.post("/retention/run", data={"csrf": browser.csrf}).headers["location"]
    site.wait_for_jobs()
    assert "Nothing was deleted: the clock says" in browser.get(job).text
    report = client.get(f"{API}{job}").json()["report"]
    assert (report["segments"], report["searches"]) == ([], 0)
    site.service.library.refresh(force=True)
    assert site.tracklets() == before
    site.clock.ahead = 0 * DAY
    ready = site.client().get("/readyz")
    assert ready.status_code == 200, ready.text
    assert retention.clock_fault() == ""


def test_a_service_that_was_off_for_long_goes_on_once_the_clock_is_confirmed(site: Any) -> None:
    keep_all(site)
    retention = site.service.retention
    retention.note_clock()
    site.clock.ahead = 4000 * DAY
    client = site.client()
    assert "days after" in client.get(f"{API}/retention").json()["clock"]
    site.add("vera", "viewer")
    assert site.client("vera").post(f"{API}/retention/clock", json={}).status_code == 403
    assert client.post(f"{API}/retention/clock", json={"reason": "was off"}).status_code == 204
    assert client.get(f"{API}/retention").json()["clock"] == ""
    assert client.get("/readyz").status_code == 200
    assert len(retention.run("test")["segments"]) == 6
    entry = next(e for e in client.get(f"{API}/audit").json()["entries"] if e["action"] == "retention.clock-confirmed")
    assert entry["reason"] == "was off"
    site.clock.ahead = 0 * DAY  # it was confirmed wrongly: the clock is behind now, and confirming again is the way out
    browser = site.browser()
    assert site.client().get("/readyz").status_code == 503
    assert browser.post("/retention/clock", data={"csrf": browser.csrf}).status_code == 303
    assert site.client().get("/readyz").status_code == 200


def test_a_week_off_is_no_fault_of_the_clock(site: Any) -> None:
    site.service.retention.note_clock()
    site.clock.ahead = 6.5 * DAY
    assert site.service.retention.clock_fault() == ""
    site.service.retention.note_clock()
    site.clock.ahead = 13 * DAY
    assert site.service.retention.clock_fault() == ""
    site.clock.ahead = 14.1 * DAY
    assert "8 days after" in site.service.retention.clock_fault()


def test_the_first_start_after_an_update_takes_the_audit_log_as_the_last_known_time(site: Any) -> None:
    site.clock.ahead = 30 * DAY
    site.service.retention.note_clock()
    assert "30 days after" in site.service.retention.clock_fault()


def test_logins_that_failed_while_the_clock_was_ahead_do_not_block(site: Any) -> None:
    from osnet.service.roles import LoginError, TooManyFailuresError
    from small_service import PASSWORD

    site.clock.ahead = 400 * DAY
    for _ in range(5):
        with pytest.raises(LoginError):
            site.service.accounts.log_in("root", "wrong", "1.2.3.4")
    with pytest.raises(TooManyFailuresError):
        site.service.accounts.log_in("root", PASSWORD, "1.2.3.4")
    site.clock.ahead = 0
    assert site.service.accounts.log_in("root", PASSWORD, "1.2.3.4")


# Limits before work; probes


def jpeg() -> bytes:
    with io.BytesIO() as file:
        make_picture(1).save(file, "JPEG")
        return file.getvalue()


def test_too_many_photos_are_refused_before_any_is_embedded(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("work before the check")

    monkeypatch.setattr(site.service.library, "embed", refuse)
    monkeypatch.setattr("osnet.service.searches.decode_image", refuse)
    monkeypatch.setattr("osnet.service.api.read_frame", refuse)
    client, browser = site.client(), site.browser()
    files = [("photos", (f"{n}.jpg", jpeg())) for n in range(200)]
    answer = client.post(f"{API}/searches/photos", files=files)
    assert (answer.status_code, "200 pictures; at most 16" in answer.text) == (422, True)
    page = browser.post("/search", files=files[:17], data={"csrf": browser.csrf})
    assert (page.status_code, "17 pictures; at most 16" in page.text) == (422, True)
    one = files[:1]
    for options in ({"case": "nowhere"}, {"filters": {"after_s": 2, "before_s": 1}}):
        answer = client.post(f"{API}/searches/photos", files=one, data={"options": json.dumps(options)})
        assert answer.status_code in (404, 422), answer.text
    box = {"camera": "camera-1", "time_s": 1.0, "box": [0, 0, 60, 120]}
    tracklets = site.tracklets()[:1] * 16
    answer = client.post(f"{API}/searches", json={"boxes": [box], "tracklets": tracklets})
    assert (answer.status_code, "17 pictures" in answer.text) == (422, True)
    answer = client.post(f"{API}/searches", json={"boxes": [box, {**box, "camera": "nowhere"}]})
    assert (answer.status_code, "nowhere" in answer.text) == (404, True)
    answer = client.post(f"{API}/searches", json={"boxes": [box], "having": ["hat"]})
    assert answer.status_code == 422


def test_the_client_counts_before_it_reads_and_sends() -> None:
    httpx = pytest.importorskip("httpx")
    from osnet.client import MAX_PICTURES, Client

    def refuse(_: Any) -> Any:
        raise AssertionError("sent")

    client = Client("http://service", "token", transport=httpx.MockTransport(refuse))
    with pytest.raises(DataError, match="17 pictures; at most 16"):
        client.search(["not-there.jpg"] * 17)
    with pytest.raises(DataError, match="17 pictures"):
        client.search(tracklets=["t"] * 17)
    with pytest.raises(DataError, match="2 boxes for 1 photos"):
        client.search([b"x"], boxes=[None, None])
    pytest.importorskip("fastapi")
    from osnet.service.searches import MAX_QUERIES

    assert MAX_PICTURES == MAX_QUERIES


def test_head_is_answered_as_get_without_a_body(site: Any) -> None:
    sent: list[dict[str, Any]] = []
    client = site.client()
    for path in ("/healthz", "/readyz", "/login", f"{API}/me", f"{API}/nothing", "/static/style.css", "/", "/metrics"):
        got, head = client.get(path), client.head(path)
        assert head.status_code == got.status_code, path
        assert head.headers["content-type"] == got.headers["content-type"]
        assert head.content == b""
    assert client.head("/search").status_code == 405  # as GET
    assert site.client(None).head(f"{API}/me").status_code == 401

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    import asyncio

    scope = {"type": "http", "method": "HEAD", "path": "/healthz", "raw_path": b"/healthz", "query_string": b""}
    scope |= {"headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
    asyncio.run(site.app({**scope, "http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send))
    assert sent[0]["status"] == 200
    assert b"".join(message.get("body", b"") for message in sent[1:]) == b""  # whatever the server makes of it


# Damaged pictures


def encoded(form: str, seed: int = 1, **options: Any) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 256, (128, 64, 3)).astype(np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, form, **options)
        return file.getvalue()


def zeroed(content: bytes, at: float = 0.5, number: int = 60) -> bytes:
    start = int(len(content) * at)
    return content[:start] + bytes(number) + content[start + number :]


def needs(form: str) -> None:
    if not features.check(form):
        pytest.skip(f"this build of Pillow does not read {form}")


def test_zeroed_bytes_in_an_avif_are_found(tmp_path: Path, tiny_weights: Path) -> None:
    needs("avif")
    whole = encoded("AVIF", speed=10)
    assert find_damage(whole) is None
    for at in (0.2, 0.5, 0.8):
        assert "zero bytes" in (find_damage(zeroed(whole, at)) or ""), at
    path = tmp_path / "bad.avif"
    path.write_bytes(zeroed(whole))
    assert "bad.avif" in find_unreadable([Crop(path, 1, 1)])[0]
    with pytest.warns(ImageWarning, match=r"bad\.avif.*zero bytes"):
        Embedder(tiny_weights, backend="torch").embed(path)


def test_an_avif_of_plain_areas_or_with_exif_is_not_damage() -> None:
    needs("avif")
    picture = Image.new("RGB", (640, 480), "white")
    picture.paste("red", (200, 200, 230, 230))
    for options in ({}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(200)}):
        with io.BytesIO() as file:
            picture.save(file, "AVIF", speed=10, **options)
            assert find_damage(file.getvalue()) is None


def test_a_webp_shorter_than_its_header_is_found() -> None:
    whole = encoded("WEBP")
    assert find_damage(whole) is None
    longer = whole[:4] + (len(whole) + 92).to_bytes(4, "little") + whole[8:]
    assert f"{len(whole):,} bytes" in (find_damage(longer) or "")
    assert find_damage(whole + b"more") is None


@pytest.mark.parametrize("form", ["WEBP", "AVIF", "BMP", "TIFF", "PPM"])
def test_truncated_pictures_are_refused(form: str, tmp_path: Path) -> None:
    if form in ("WEBP", "AVIF"):
        needs(form.lower())
    from osnet.data.loading import read_image

    content = encoded(form)
    for part in (0.5, 0.99):
        path = tmp_path / "x"
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(ImageError):
            read_image(path)


# Copies in query and gallery


def folder_of_copies(root: Path, copied: bool) -> Path:
    """Three people in ``query``; in ``gallery`` the same files under other names, or other pictures."""
    for person in range(3):
        write_picture(root / "query" / str(person) / "a.png", person)
        target = root / "gallery" / str(person) / "b.png"
        write_picture(target, 10 + person)
        if copied and person < 2:
            shutil.copy(root / "query" / str(person) / "a.png", target)
    return root


@pytest.mark.parametrize("copied", [True, False])
def test_evaluate_warns_of_queries_that_find_themselves(copied: bool, tmp_path: Path, tiny_weights: Path) -> None:
    embedder = Embedder(tiny_weights, device="cpu", backend="torch")
    result = evaluate(embedder, folder_of_copies(tmp_path / "data", copied))
    assert ("2 of 3 queries have their own image in the gallery" in str(result)) == copied
    assert bool(result.to_json()["warnings"]) == copied


def test_copies_that_the_protocol_ignores_are_no_reason_to_warn(tmp_path: Path) -> None:
    one = write_picture(tmp_path / "one.png", 1)
    two = Path(shutil.copy(one, tmp_path / "two.png"))

    def warnings_of(query: Crop, gallery: Crop) -> int:
        return len(warn_about_copies(Split("query", (query,)), Split("gallery", (gallery,))))

    assert warnings_of(Crop(one, 1, 1), Crop(two, 1, 2)) == 1
    assert warnings_of(Crop(one, 1, 1), Crop(two, 1, 1)) == 0  # its camera: ignored
    assert warnings_of(Crop(one, 1, 1), Crop(two, 2, 2)) == 0  # no match: lowers the scores
    assert warnings_of(Crop(tmp_path / "gone.png", 1, 1), Crop(two, 1, 2)) == 0


def test_evaluating_embeddings_warns_of_equal_ones() -> None:
    vectors = np.random.RandomState(0).randn(3, 8).astype(np.float32)
    people = np.arange(1, 4)

    def warnings_of(gallery: Any) -> tuple[str, ...]:
        parts = (vectors, people, np.full(3, 1)), (gallery, people, np.full(3, 2))
        query, other = (LabelledVectors(*part, tuple("abc")) for part in parts)
        return evaluate_features(query, other).warnings

    assert "3 of 3 queries have an equal embedding" in warnings_of(vectors.copy())[0]
    assert warnings_of(vectors + 1e-3) == ()


# Warnings in the command line


def test_warnings_about_weights_are_printed_as_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = create_model("osnet_x0_25").state_dict()
    torch.save({"state_dict": state, "ema": {k: v + 1 for k, v in state.items()}}, tmp_path / "two.pth")
    main(["convert", str(tmp_path / "two.pth"), str(tmp_path / "out")])
    lines = [line for line in capsys.readouterr().err.splitlines() if "ignored" in line]
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")


def test_many_warnings_about_images_hide_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with warn_once():
        for n in range(14):
            warnings.warn(ImageWarning(f"image {n}"), stacklevel=1)
        for _ in range(2):
            warnings.warn("the weights", stacklevel=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        *(f"warning: image {n}" for n in range(10)),
        "warning: the weights",
        "warning: 4 more such warnings",
    ]


def test_a_worker_process_prints_warnings_as_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from osnet.work import __main__ as process

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["osnet.work", "folder"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(process, "Worker", lambda _: None)
    process.main()
    assert warnings.formatwarning(UserWarning("x"), UserWarning, "file.py", 7, "code") == "warning: x\n"


# Classes of weights that say ImageNet


def imagenet_with(outputs: int, stated: int) -> Checkpoint:
    network = create_model("osnet_x0_25")
    card = Card(network.config, training_data="imagenet", num_classes=stated)
    head = torch.nn.Linear(512, outputs).state_dict()
    return Checkpoint(card, {**network.state_dict(), **{f"classifier.{k}": v for k, v in head.items()}})


def test_a_classifier_of_another_size_is_numbered_with_a_note() -> None:
    checkpoint = imagenet_with(7, 1000)
    assert len(known_classes(checkpoint)) == 7
    with pytest.warns(UserWarning, match=r"7 outputs instead of 1000.*numbers"):
        predictor = ClassPredictor(checkpoint, backend="torch")
    assert predictor.classes == tuple("0123456")


def test_predicting_with_such_weights_prints_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = create_model("osnet_x0_25")
    card = Card(network.config, training_data="imagenet")
    save_weights(network, tmp_path / "w", card, classifier=torch.nn.Linear(512, 7).state_dict())
    picture = write_picture(tmp_path / "a.png", 1)
    main(["predict", "classes", str(picture), "--weights", str(tmp_path / "w"), "--device", "cpu"])
    said = capsys.readouterr()
    assert "7 outputs instead of 1000" in said.err
    assert said.err.startswith("warning: ")


# The Hub


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [("create", 401, "token"), ("upload", 403, "token"), ("upload", 404, "branch"), ("create", 500, "HfHub"),
     ("name", 0, "HFValidationError"), ("net", 0, "ConnectError")],
)  # fmt: skip
def test_a_refused_upload_is_an_error_of_the_package(
    kind: str, status: int, words: str, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError

    class Response:
        status_code, headers, request = status, {}, None

    def fail() -> None:
        if kind == "name":
            raise HFValidationError("Repo id must use alphanumeric chars")
        if kind == "net":
            raise type("ConnectError", (Exception,), {})("name or service not known\nmore")
        error = (RevisionNotFoundError if status == 404 else HfHubHTTPError).__new__(
            RevisionNotFoundError if status == 404 else HfHubHTTPError
        )
        error.args, error.response = (f"{status} refused",), Response()
        raise error

    class Api:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            if kind in ("create", "name", "net"):
                fail()
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, **_: Any) -> str:
            fail()
            return ""

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(OutputError, match=rf"(?s)org/name.*{words}") as caught:
        load_weights(tiny_weights).push_to_hub("org/name", branch="next")
    assert "\n" not in str(caught.value)
