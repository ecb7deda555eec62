"""Load on ``osnet serve`` on this machine: single and concurrent requests, large uploads, slow clients, memory.

    python benchmarks/service_load.py --tracklets 100000 --out results.json

The archive is random: vectors are non-negative and sparse like OSNet's, and all crops are one small image. So it
measures the service and not the quality of a search. The baseline is a search of the archive in this process.
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

from osnet import Embedder, Gallery, create_model
from osnet.types import Item
from osnet.video.archive import Archive, FinishedTrack, segment_name, write_segment
from osnet.video.crops import Sample, encode_jpeg
from osnet.video.protocols import Track
from osnet.weights.card import Card
from osnet.weights.checkpoint import save_weights

PER_SEGMENT = 500
PASSWORD = "load test 1234 5678"


def draw_archive(folder: Path, weights: Path, tracklets: int) -> Path:
    """An archive of random tracklets with one crop each, in four cameras."""
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
    """p50, p99 and maximum in milliseconds."""
    ordered = sorted(seconds)
    return {
        "n": len(ordered),
        "p50_ms": round(1000 * statistics.median(ordered), 1),
        "p99_ms": round(1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
        "max_ms": round(1000 * ordered[-1], 1),
    }


def busy(process: psutil.Process) -> float:
    """Processor seconds of a process so far: what does not depend on the load of others."""
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def draw_gallery(folder: Path, archive: Archive) -> Gallery:
    """A gallery of the archive's means."""
    if not folder.exists():
        ids, means = archive.means()
        digest = archive.weights_sha256
        made = Gallery.create(folder, weights_sha256=digest, embedding_size=means.shape[1])
        made.add_embeddings(means, [Item(one) for one in ids], weights_sha256=digest)
    return Gallery.open(folder)


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
    embedder = Embedder(weights, device="cpu", backend="fastest", num_threads=1)  # as the service has it
    crop = Image.open(io.BytesIO(photo))
    embedder.embed(crop)
    gallery = draw_gallery(archive.with_name(f"gallery-{len(store)}"), store)
    calls: dict[str, Callable[[], Any]] = {
        "plain_archive_search": lambda: store.search_embedding(query, weights_sha256=digest, top=200),
        "plain_gallery_search": lambda: gallery.search_embedding(query, weights_sha256=digest, top=200),
        "plain_embed": lambda: embedder.embed(crop),
        "by_tracklet": lambda: timed(by_tracklet, errors),
        "by_photo": lambda: timed(by_photo, errors),
    }
    alone: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(args.alone):  # in turn, so that other load falls on all alike
        for name, call in calls.items():
            begin, spent = time.perf_counter(), busy(process if name.startswith("by_") else psutil.Process())
            call()
            after = busy(process if name.startswith("by_") else psutil.Process())
            alone[name].append((time.perf_counter() - begin, after - spent))
    result["alone"] = {
        name: {
            **percentiles([wall for wall, _ in found]),
            "processor_ms": round(1000 * statistics.mean(spent for _, spent in found), 1),
        }
        for name, found in alone.items()
    }
    result["memory_mb"] = {"after the first requests": round(memory / 1e6)}
    for _ in range(args.rounds):
        result["at_once"] = together(lambda: timed(by_tracklet, errors), args.clients, args.seconds, args.together)
        memory = process.memory_info().rss
        result["memory_mb"][f"after {sum(MADE)} requests at once"] = round(memory / 1e6)
    result["photos_at_once"] = together(lambda: timed(by_photo, errors), args.clients, args.seconds, args.together // 2)
    result["memory_mb"]["after photos at once"] = round(process.memory_info().rss / 1e6)
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1900, 1800, 3), dtype=np.uint8)).save(noise, "PNG")
    large = noise.getvalue()
    uploads = [
        timed(lambda: client.post("/searches/photos", files=[("photos", ("large.png", large))]), errors)
        for _ in range(args.uploads)
    ]
    result["uploads"] = {"mb": round(len(large) / 1e6, 1), **percentiles(uploads)}
    result["memory_mb"]["after large uploads"] = round(process.memory_info().rss / 1e6)
    result["beside_slow_clients"] = beside_slow_clients(address, token, by_tracklet, errors, args)
    result["memory_mb"]["at the end"] = round(process.memory_info().rss / 1e6)
    spent = process.cpu_times()
    result["service_processor_s"] = round(spent.user + spent.system, 1)
    result["load_average"] = [round(os.getloadavg()[0], 1), "of the machine at the end; it did other work"]
    result["errors"] = errors[:10]
    return result


MADE: list[int] = []
"""Requests of each round so far."""


def together(call: Callable[[], float], clients: int, seconds: float, most: int) -> dict[str, float]:
    """Latencies of so many clients that each ask again as soon as they are answered; bounded in time and in count."""
    begin, numbers = time.perf_counter(), iter(range(most))
    lock = threading.Lock()

    def ask() -> list[float]:
        found = []
        while time.perf_counter() - begin < seconds:
            with lock:
                if next(numbers, None) is None:
                    break
            found.append(call())
        return found

    with ThreadPoolExecutor(clients) as pool:
        found = [one for part in [pool.submit(ask) for _ in range(clients)] for one in part.result()]
    MADE.append(len(found))
    lasted = time.perf_counter() - begin
    return {**percentiles(found), "seconds": round(lasted, 1), "per_s": round(len(found) / lasted, 1)}


def beside_slow_clients(
    address: str, token: str, call: Callable[[], httpx.Response], errors: list[str], args: argparse.Namespace
) -> dict[str, float]:
    """Latencies while slow clients send one byte of a body every 0.1 s."""
    host, port = address.removeprefix("http://").split(":")
    stop = threading.Event()

    def send_slowly() -> None:
        with socket.create_connection((host, int(port))) as connection:
            head = (
                f"POST /api/v1/searches/photos HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
                "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
            )
            connection.sendall(head.encode())
            while not stop.wait(0.1):
                connection.sendall(b"-")

    threads = [threading.Thread(target=send_slowly, daemon=True) for _ in range(args.slow)]
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
    parser.add_argument("--seconds", type=float, default=60.0, help="of each round with all clients at once")
    parser.add_argument("--together", type=int, default=6000, help="at most so many requests in a round")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of searches by tracklet")
    parser.add_argument("--uploads", type=int, default=5)
    parser.add_argument("--slow", type=int, default=20)
    parser.add_argument("--weights", type=Path, help="default: OSNet x0.25 with random weights")
    parser.add_argument("--folder", type=Path, help="keep the archive in this folder and reuse it")
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
    """Create the first administrator and return an API token."""
    with httpx.Client(base_url=address, follow_redirects=True, timeout=60) as browser:
        browser.post("/setup", data={"key": key, "name": "bench", "password": PASSWORD, "again": PASSWORD})
        match = re.search(r'name="csrf" value="([^"]+)"', browser.get("/accounts").text)
        assert match is not None
        given = {"name": "bench", "scopes": ["view", "search"], "days": 1}
        answer = browser.post("/api/v1/tokens", json=given, headers={"X-CSRF-Token": match[1]})
        return str(answer.json()["token"])


if __name__ == "__main__":
    main()
