"""A service over a small painted archive: two cameras, six painted people, a cheap password hash."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import argon2
from starlette.testclient import TestClient

from osnet import Embedder
from osnet.service.app import make_app
from osnet.service.core import Service, ServiceOptions
from osnet.service.database import Database, open_database
from osnet.service.roles import Actor
from osnet.synthetic.footage import FootageSettings
from osnet.video import IndexSettings, index_footage
from osnet.video.painted import write_painted_footage
from osnet.video.tracking import front_end

API = "/api/v1"
PASSWORD = "correct horse battery"
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
FOOTAGE = FootageSettings(people=6, cameras=2, seconds=24, fps=5, seed=3)


def write_archive(folder: Path, weights: Path) -> Path:
    """``folder/archive`` over ``folder/footage``: camera-1 and camera-2, with the painter's own tracks."""
    videos = write_painted_footage(folder / "footage", FOOTAGE)
    embedder = Embedder(weights, device="cpu", backend="torch")
    for video in videos:
        detector, tracker = front_end(video.with_suffix(".txt"))
        index_footage(
            video,
            folder / "archive",
            camera=video.stem,
            embedder=embedder,
            detector=detector,
            tracker=tracker,
            settings=IndexSettings(segment_s=10, crops=3, appearance=False),
        )
    return folder / "archive"


class Clock:
    """A clock that tests can move ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Site:
    """A service with its clients."""

    def __init__(self, folder: Path, archive: Path, **options: Any) -> None:
        self.clock = Clock()
        self.archive = archive
        self.service = Service(
            ServiceOptions(**{"archives": (archive,), "state": folder / "state", "device": "cpu", **options}),
            self.clock,
            CHEAP,
        )
        self.app = make_app(self.service)
        self.service.accounts.add("root", PASSWORD, "administrator", by="test")

    def actor(self, name: str = "root") -> Actor:
        """The account as the service's core sees it."""
        row = self.service.database.one(
            "SELECT a.id, r.kind FROM accounts a JOIN roles r ON r.name = a.role WHERE a.name = ?", name
        )
        assert row is not None
        from osnet.service.roles import KINDS

        roles = {r["name"]: r for r in self.service.accounts.list_roles()}
        role = next(a["role"] for a in self.service.accounts.list_accounts() if a["name"] == name)
        cameras = roles[role]["cameras"]
        return Actor(row["id"], name, row["kind"], None if cameras is None else frozenset(cameras), KINDS[row["kind"]])

    def add(self, name: str, role: str) -> None:
        self.service.accounts.add(name, PASSWORD, role, by="test")

    def token(self, name: str = "root", scopes: list[str] | None = None, days: int = 1) -> str:
        actor = self.actor(name)
        return self.service.accounts.make_token(actor, "t", scopes or sorted(actor.capabilities), days)[1]

    def client(self, name: str | None = "root", scopes: list[str] | None = None) -> TestClient:
        """An API client with the token of ``name``, or without a token for None."""
        client = TestClient(self.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        if name is not None:
            client.headers["Authorization"] = f"Bearer {self.token(name, scopes)}"
        return client

    def browser(self, name: str = "root") -> TestClient:
        """A browser that has logged in; ``client.csrf`` is the token of its forms."""
        client = TestClient(
            self.app, base_url="http://127.0.0.1", raise_server_exceptions=False, follow_redirects=False
        )
        token = form_field(client.get("/login").text, "token")
        answer = client.post("/login", data={"name": name, "password": PASSWORD, "token": token})
        assert answer.status_code == 303, answer.text
        client.csrf = form_field(client.get("/accounts").text, "csrf")  # type: ignore[attr-defined]
        return client

    def tracklets(self, camera: str | None = None) -> list[str]:
        c = self.service.library.columns
        return [i for i, where in zip(c.ids, c.cameras, strict=True) if camera in (None, where)]

    def wait_for_jobs(self) -> None:
        while self.service.jobs.run_next():
            pass


def guarded_site(folder: Path, archive: Path) -> Site:
    """Accounts of each kind, two of them for one camera; small uploads only."""
    site = Site(folder, archive, max_upload_bytes=1 << 20)
    site.service.accounts.set_role("gate", "operator", ["camera-1"], site.actor())
    site.service.accounts.set_role("gate viewer", "viewer", ["camera-1"], site.actor())
    for name, role in (("olga", "operator"), ("vera", "viewer"), ("greta", "gate"), ("gustav", "gate viewer")):
        site.add(name, role)
    return site


def open_state(address: str) -> Database:
    return open_database(address if address.startswith("postgresql:") else Path(address) / "state.sqlite")


def form_field(page: str, name: str) -> str:
    match = re.search(f'name="{name}" value="([^"]*)"', page)
    assert match is not None, page[:500]
    return match[1]


def crop_file(site: Site, public: str) -> bytes:
    return site.service.library.tracklet(public).best_crop.path.read_bytes()


def copy_archive(archive: Path, folder: Path) -> Path:
    shutil.copytree(archive, folder / "archive")
    return folder / "archive"


@contextmanager
def serving(
    folder: Path, place: Path, *more: str, state: str | None = None
) -> Iterator[tuple[str, str | None, subprocess.Popen[str]]]:
    """``osnet serve`` as a process: its address, the key of the one-time link, the process.

    Args:
        folder: an archive or a gallery.
        place: the folder of the state; the log is beside it.
        more: further arguments.
        state: an address of Postgres that has accounts already, instead of the folder.
    """
    command = [
        sys.executable,
        "-m",
        "osnet.cli",
        "serve",
        str(folder),
        "--state",
        state or str(place),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (place.parent / f"{place.name}.log").open("a")
    with subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert " at http" in first, f"{first!r}; {Path(log.name).read_text()[-2000:]}"
            address, key = first.split(" at ")[1].strip(), None
            if state is None and not (place / "made").exists():
                key = process.stdout.readline().partition("key=")[2].strip()
            yield address, key, process
        finally:
            process.terminate()
            process.wait(20)
            log.close()


def upload(site: Site, *publics: str, **options: Any) -> dict[str, Any]:
    """Search by the pictures of tracklets; the answer of the API."""
    photos = [("photos", (f"{n}.jpg", crop_file(site, p), "image/jpeg")) for n, p in enumerate(publics)]
    answer = site.client().post(f"{API}/searches/photos", files=photos, data={"options": json.dumps(options)})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found
