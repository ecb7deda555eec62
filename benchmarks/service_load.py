"""Load on ``osnet serve`` over loopback, bounded in counts: alone and at once, large uploads, slow clients, memory.

    python benchmarks/service_load.py --tracklets 100000 --out results.json

The archive is drawn: vectors are random, non-negative and sparse as OSNet's are, and every crop is one small picture.
So it measures the service, never how good a search is. The plain comparison is ``Archive.search`` in this process.
"""

import argparse
import io
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from osnet import Embedder, create_model
from osnet.video.archive import Archive, FinishedTrack, segment_name, write_segment
from osnet.video.crops import Sample, encode_jpeg
from osnet.video.protocols import Track
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights

PER_SEGMENT = 500
PASSWORD = "load test 1234 5678"


def draw_archive(folder: Path, weights: Path, tracklets: int) -> Path:
    """So many tracklets of one crop, over four cameras."""
    rng = np.random.default_rng(0)
    embedder = Embedder(weights, device="cpu")
    Archive.open(folder, embedder)
    jpeg = encode_jpeg(rng.integers(0, 255, (128, 64, 3), dtype=np.uint8))
    start = 1_767_600_000.0
    for first in range(0, tracklets, PER_SEGMENT):
        finished = []
        for number in range(min(PER_SEGMENT, tracklets - first)):
            vector = np.where(rng.random(512) < 0.41, 0, rng.random(512)).astype(np.float32)
            vector /= np.linalg.norm(vector)
            begin = start + number * 0.5
            track = Track(
                number + 1, [1, 2, 3], [begin, begin + 1, begin + 2], [(0.0, 0.0, 64.0, 128.0)] * 3, [0.9] * 3
            )
            track.pieces = [(number + 1, 1, 3)]
            finished.append(FinishedTrack(track, [Sample(2, begin + 1, (0.0, 0.0, 64.0, 128.0), 0.5, vector, jpeg)]))
        camera = f"camera-{first // PER_SEGMENT % 4}"
        about = {
            "camera": camera,
            "start_s": start,
            "stop_s": start + 300,
            "footage": {"path": "/nowhere.mp4", "fps": 10, "starts_s": start},
            "num_tracklets": len(finished),
            "troubles": [],
        }
        write_segment(folder, segment_name(camera, start), finished, about, 512)
        start += 300
    return folder


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p99 and the largest, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "n": len(ordered),
        "p50_ms": round(1000 * statistics.median(ordered), 1),
        "p99_ms": round(1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
        "max_ms": round(1000 * ordered[-1], 1),
    }


def timed(call: Callable[[], httpx.Response], errors: list[str]) -> float:
    begin = time.perf_counter()
    answer = call()
    if answer.status_code >= 400:
        errors.append(f"{answer.status_code} {answer.text[:100]}")
    return time.perf_counter() - begin


def measure(
    address: str, token: str, archive: Path, weights: Path, args: argparse.Namespace, pid: int
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    limits = httpx.Limits(max_connections=args.clients + 10)
    client = httpx.Client(base_url=address + "/api/v1", headers=headers, timeout=120, limits=limits)
    process = psutil.Process(pid)
    store = Archive.open(archive)
    name, first = archive.name, sorted(store.sources())[0]
    tracklet = f"{name}~{first.replace('/', '~')}"
    photo = store.tracklet(first).best_crop.path.read_bytes()
    errors: list[str] = []
    result: dict[str, Any] = {"tracklets": len(store), "clients": args.clients, "cores": os.cpu_count()}

    def by_tracklet() -> httpx.Response:
        return client.post("/searches", json={"tracklets": [tracklet], "filters": {}})

    def by_photo() -> httpx.Response:
        return client.post("/searches/photos", files=[("photos", ("p.jpg", photo))])

    for call in (by_tracklet, by_photo):
        timed(call, errors)
    memory = process.memory_info().rss
    query, digest = store.vectors(first)[0], store.weights_sha256
    embedder = Embedder(weights, device="cpu")
    crop = Image.open(io.BytesIO(photo))
    embedder.embed(crop)
    plain, embed = [], []
    alone: dict[str, list[float]] = {"by_tracklet": [], "by_photo": []}
    for _ in range(args.alone):  # in turn, so that other load falls on all alike
        begin = time.perf_counter()
        store.search_embedding(query, weights_sha256=digest, top=200)
        plain.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        embedder.embed(crop)
        embed.append(time.perf_counter() - begin)
        alone["by_tracklet"].append(timed(by_tracklet, errors))
        alone["by_photo"].append(timed(by_photo, errors))
    result["plain_archive_search"], result["plain_embed"] = percentiles(plain), percentiles(embed)
    result["alone"] = {kind: percentiles(found) for kind, found in alone.items()}
    with ThreadPoolExecutor(args.clients) as pool:
        begin = time.perf_counter()
        together = list(pool.map(lambda _: timed(by_tracklet, errors), range(args.together)))
        result["at_once"] = {**percentiles(together), "per_s": round(args.together / (time.perf_counter() - begin), 1)}
        begin = time.perf_counter()
        photos = list(pool.map(lambda _: timed(by_photo, errors), range(args.together // 2)))
        result["photos_at_once"] = percentiles(photos)
    result["memory_mb"] = [round(m / 1e6) for m in (memory, process.memory_info().rss)]
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1900, 1800, 3), dtype=np.uint8)).save(noise, "PNG")
    large = noise.getvalue()
    uploads = [
        timed(lambda: client.post("/searches/photos", files=[("photos", ("large.png", large))]), errors)
        for _ in range(args.uploads)
    ]
    result["uploads"] = {"mb": round(len(large) / 1e6, 1), **percentiles(uploads)}
    result["beside_slow_clients"] = beside_slow_clients(address, token, by_tracklet, errors, args)
    result["memory_mb"].append(round(process.memory_info().rss / 1e6))
    result["errors"] = errors[:10]
    return result


def beside_slow_clients(
    address: str, token: str, call: Callable[[], httpx.Response], errors: list[str], args: argparse.Namespace
) -> dict[str, float]:
    """Latencies while so many clients send one byte of a body each tenth of a second."""
    host, port = address.removeprefix("http://").split(":")
    stop = threading.Event()

    def dawdle() -> None:
        with socket.create_connection((host, int(port))) as connection:
            head = (
                f"POST /api/v1/searches/photos HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
                "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
            )
            connection.sendall(head.encode())
            while not stop.wait(0.1):
                connection.sendall(b"-")

    threads = [threading.Thread(target=dawdle, daemon=True) for _ in range(args.slow)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    found = percentiles([timed(call, errors) for _ in range(args.alone)])
    stop.set()
    return {"slow": args.slow, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracklets", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--alone", type=int, default=30, help="requests one at a time")
    parser.add_argument("--together", type=int, default=300, help="requests by all clients at once")
    parser.add_argument("--uploads", type=int, default=5)
    parser.add_argument("--slow", type=int, default=20)
    parser.add_argument("--weights", type=Path, help="default: OSNet x0.25 with random weights")
    parser.add_argument("--folder", type=Path, help="keep the archive here, and use it again")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = args.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        weights = args.weights or folder / "weights"
        if not weights.exists():
            network = create_model("osnet_x0_25").eval()
            save_weights(network, weights, Card(network.config, training_data="nothing", licence="MIT"))
        archive = folder / f"archive-{args.tracklets}"
        if not archive.exists():
            draw_archive(archive, weights, args.tracklets)
        state = Path(place) / "state"
        command = [sys.executable, "-m", "osnet.cli", "serve", str(archive), "--state", str(state), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address = process.stdout.readline().split(" at ")[1].strip()
                key = process.stdout.readline().partition("key=")[2].strip()
                result = measure(address, log_in(address, key), archive, weights, args, process.pid)
            finally:
                process.terminate()
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


def log_in(address: str, key: str) -> str:
    """The first administrator's token."""
    with httpx.Client(base_url=address, follow_redirects=True, timeout=60) as browser:
        browser.post("/setup", data={"key": key, "name": "bench", "password": PASSWORD, "again": PASSWORD})
        match = re.search(r'name="csrf" value="([^"]+)"', browser.get("/accounts").text)
        assert match is not None
        given = {"name": "bench", "scopes": ["view", "search"], "days": 1}
        answer = browser.post("/api/v1/tokens", json=given, headers={"X-CSRF-Token": match[1]})
        return str(answer.json()["token"])


if __name__ == "__main__":
    main()
