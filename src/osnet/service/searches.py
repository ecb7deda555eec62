"""Searches: what was asked, what was found, what people answered, and where the person was when.

A search keeps its query, its hits in order, and every answer. Answers are only added: undoing one is an answer too, so
who said what when stays known. The last one counts.
"""

import io
import itertools
import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.data.loading import check_size, decode_image
from osnet.errors import DataError, GalleryError, ImageError
from osnet.service.accounts import AccessError, Actor
from osnet.service.audit import record
from osnet.service.database import Database, Row, Transaction
from osnet.service.library import Filters, Library, ScoredTracklet, refine_query
from osnet.service.scores import DESCRIBED, Meaning
from osnet.video.archive import Tracklet
from osnet.video.links import Travel, learn_travel, read_links

Floats = NDArray[np.float32]
Answer = Literal["yes", "no"]
TOP = 200
"""So many hits of a search are kept."""
PROPOSED = 12
"""So many unanswered hits stand on a timeline."""
MAX_QUERIES = 16
KEPT_WH = (512, 512)
MAX_UPLOAD_PIXELS = 25_000_000


class MissingError(GalleryError):
    """There is no such thing, or the asker may not see it. It does not say which."""


@dataclass(frozen=True)
class Query:
    """One picture of the person who is looked for."""

    label: str
    """Where it came from, for people to read."""
    jpeg: bytes
    vector: Floats
    tracklet: str | None = None
    """It shows this tracklet."""


@dataclass(frozen=True)
class Found:
    """One hit as it is shown."""

    place: int
    """From 1, in the present order."""
    tracklet: Tracklet
    id: str
    score: float
    crop_score: float | None
    meaning: Meaning
    answer: Answer | None
    answered_by: str | None
    answered_s: float | None


@dataclass(frozen=True)
class Appearance:
    """The person in one camera, on a timeline."""

    id: str
    camera: str
    begin_s: float
    end_s: float
    confirmed: bool
    score: float | None
    """None: proposed by a link of the archive."""


@dataclass(frozen=True)
class Way:
    """From one confirmed appearance to the next one."""

    start: str
    stop: str
    seconds: float
    """From leaving one view to entering the next; below 0 if both saw the person at once."""
    usual: Travel | None
    """Learnt from at least three confirmed ways between these cameras."""

    @property
    def is_odd(self) -> bool:
        """True if the way took less or more time than is usual."""
        return self.usual is not None and not self.usual.min_s <= self.seconds <= self.usual.max_s


class Searches:
    """All searches of a service.

    Args:
        database: where they are stored.
        library: what is searched.
        clock: gives Unix time.
    """

    def __init__(self, database: Database, library: Library, clock: Callable[[], float] = time.time) -> None:
        self._database, self._library, self._clock = database, library, clock
        self._ranking = threading.Lock()

    # Queries

    def read_photo(self, content: bytes, name: str, box: Sequence[float] | None = None) -> Query:
        """A query from an uploaded file, or from a box in it. Only a small copy without metadata is kept.

        Raises:
            ImageError: no image, too many pixels, or a box outside of it.
        """
        picture = decode_image(content, clean_label(name), MAX_UPLOAD_PIXELS)
        return self._query(cut_box(picture, box, clean_label(name)), clean_label(name))

    def read_box(self, actor: Actor, camera: str, time_s: float, box: Sequence[float], frame: Image.Image) -> Query:
        """A query from a box on a frame of footage.

        Raises:
            MissingError: a camera that the asker may not see.
            ImageError: a box outside the frame.
        """
        if not actor.sees(camera):
            raise MissingError(f"there is no camera {camera[:100]!r}")
        return self._query(cut_box(frame, box, "the frame"), f"{camera} at {time_s:.1f}")

    def read_tracklet(self, actor: Actor, public: str) -> Query:
        """A query from a tracklet: its mean. Raises MissingError if the asker may not see it."""
        tracklet = self.see_tracklet(actor, public)
        return Query(
            str(tracklet), small_jpeg(tracklet.best_crop.path.read_bytes()), self._library.mean(public), public
        )

    def see_tracklet(self, actor: Actor, public: str) -> Tracklet:
        """A tracklet that the asker may see. Raises MissingError else."""
        try:
            seen = actor.sees(self._library.camera_of(public))
        except GalleryError:
            seen = False
        if not seen:
            raise MissingError(f"there is no tracklet {public[:200]!r}")
        return self._library.tracklet(public)

    def _query(self, crop: Image.Image, label: str) -> Query:
        return Query(label, encode_small(crop), self._library.embed([crop])[0])

    # Searches

    def create(
        self,
        actor: Actor,
        queries: Sequence[Query],
        filters: Filters,
        *,
        having: Sequence[str] = (),
        lacking: Sequence[str] = (),
        reason: str = "",
        case_id: str | None = None,
    ) -> str:
        """Search and keep it. Returns its id.

        Raises:
            DataError: nothing to search for, both pictures and a description, or too many pictures.
            MissingError: no such case.
        """
        if bool(queries) == bool(having or lacking):
            raise DataError("give pictures of a person, or a description; one of the two")
        if len(queries) > MAX_QUERIES:
            raise DataError(f"{len(queries)} pictures; at most {MAX_QUERIES} make one search")
        description = {"having": list(having), "lacking": list(lacking)}
        scope = None if actor.cameras is None else sorted(actor.cameras)
        hits = self._rank(queries_vector(queries), description, filters, scope, [], [])
        search, now = secrets.token_urlsafe(12), self._clock()
        stored = {**asdict(filters), "role_cameras": scope}
        with self._database.write() as tx:
            if case_id is not None and tx.one("SELECT id FROM cases WHERE id = ?", case_id) is None:
                raise MissingError(f"there is no case {case_id[:100]!r}")
            tx.run(
                "INSERT INTO searches VALUES (?, ?, ?, ?, ?, ?, ?)",
                search,
                case_id,
                actor.name,
                reason,
                json.dumps(stored),
                json.dumps(description),
                now,
            )
            tx.run_many(
                "INSERT INTO queries VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (search, place, q.label, q.tracklet, q.jpeg, np.asarray(q.vector, "<f4").tobytes())
                    for place, q in enumerate(queries, 1)
                ],
            )
            self._store_hits(tx, search, hits)
            what = {
                "search": search,
                "case": case_id,
                "queries": [q.label for q in queries],
                "filters": stored,
                "query_tracklets": [q.tracklet for q in queries if q.tracklet],
                "description": description,
                "num_hits": len(hits),
            }
            record(tx, actor.name, "search", what, reason)
        return search

    @staticmethod
    def _store_hits(tx: Transaction, search: str, hits: Sequence[ScoredTracklet]) -> None:
        tx.run("DELETE FROM hits WHERE search = ?", search)
        tx.run_many(
            "INSERT INTO hits VALUES (?, ?, ?, ?, ?)",
            [(search, place, hit.id, hit.score, hit.crop_score) for place, hit in enumerate(hits, 1)],
        )

    def _rank(
        self,
        vector: Floats | None,
        description: dict[str, list[str]],
        filters: Filters,
        scope: Sequence[str] | None,
        confirmed: Sequence[str],
        rejected: Sequence[str],
    ) -> list[ScoredTracklet]:
        allowed = None if scope is None else frozenset(scope)

        def sees(camera: str) -> bool:
            return allowed is None or camera in allowed

        known = self._library.columns.place
        means = [[self._library.mean(t) for t in ids if t in known] for ids in (confirmed, rejected)]
        if vector is None:
            if not means[0]:
                having, lacking = description["having"], description["lacking"]
                return self._library.describe(having, lacking, filters, sees, TOP)
            vector = refine_query(means[0][0], means[0][1:], [])  # described, then shown: from here on by appearance
        return self._library.search(vector, filters, sees, TOP, refine_query(vector, *means))

    def get(self, actor: Actor, search: str) -> Row:
        """A search that the asker may see: their own, or one of a case; all for administrators.

        Raises:
            MissingError: else.
        """
        row = self._database.one("SELECT * FROM searches WHERE id = ?", search)
        if row is None or not (row["account"] == actor.name or row["case_id"] is not None or actor.may("admin")):
            raise MissingError(f"there is no search {search[:100]!r}")
        return {**row, "filters": json.loads(row["filters"]), "description": json.loads(row["description"])}

    def list_own(self, actor: Actor, before_s: float = float(2**40), limit: int = 20) -> list[Row]:
        """The asker's last searches, the newest first."""
        return self._database.all(
            "SELECT id, case_id, reason, description, created_s FROM searches WHERE account = ? AND created_s < ? "
            "ORDER BY created_s DESC LIMIT ?",
            actor.name,
            before_s,
            limit,
        )

    def queries(self, actor: Actor, search: str) -> list[Row]:
        """Place, label and tracklet of each query picture that the asker may see."""
        self.get(actor, search)
        rows = self._database.all("SELECT place, label, tracklet FROM queries WHERE search = ? ORDER BY place", search)
        return [row for row in rows if row["tracklet"] is None or self._may_see(actor, row["tracklet"])]

    def query_picture(self, actor: Actor, search: str, place: int) -> bytes:
        """JPEG. Raises MissingError if there is none, or the asker may not see it."""
        if place not in {row["place"] for row in self.queries(actor, search)}:
            raise MissingError(f"the search {search[:100]!r} has no picture {place}")
        row = self._database.one("SELECT jpeg FROM queries WHERE search = ? AND place = ?", search, place)
        assert row is not None
        return bytes(row["jpeg"])

    def _may_see(self, actor: Actor, public: str) -> bool:
        try:
            return actor.sees(self._library.camera_of(public))
        except GalleryError:
            return False

    def delete(self, actor: Actor, search: str) -> None:
        """Delete a search with all that belongs to it. Raises MissingError, or AccessError if it is not theirs."""
        row = self.get(actor, search)
        if row["account"] != actor.name and not actor.may("admin"):
            raise AccessError("only who made a search, or an administrator, can delete it")
        with self._database.write() as tx:
            tx.run("DELETE FROM searches WHERE id = ?", search)
            record(tx, actor.name, "search.delete", {"search": search})

    def vector(self, search: str) -> Floats | None:
        """(D,): the query as one vector; None if it was described in words."""
        rows = self._database.all("SELECT vector FROM queries WHERE search = ? ORDER BY place", search)
        return mean_of([np.frombuffer(row["vector"], "<f4") for row in rows]) if rows else None

    # Hits and answers

    def answers(self, search: str) -> dict[str, Row]:
        """Tracklet -> its last answer (answer, account, at_s); not those that were undone."""
        rows = self._database.all(
            "SELECT tracklet, answer, account, at_s FROM answers WHERE search = ? ORDER BY seq", search
        )
        last = {row["tracklet"]: row for row in rows}
        return {tracklet: row for tracklet, row in last.items() if row["answer"] != "undone"}

    def answered_yes(self, public: str) -> set[str]:
        """Searches in which a tracklet is confirmed now."""
        rows = self._database.all("SELECT search, answer FROM answers WHERE tracklet = ? ORDER BY seq", public)
        last = {row["search"]: row["answer"] for row in rows}
        return {search for search, answer in last.items() if answer == "yes"}

    def history(self, actor: Actor, search: str) -> list[Row]:
        """Every answer and undoing, oldest first, about tracklets that the asker may see."""
        self.get(actor, search)
        rows = self._database.all(
            "SELECT tracklet, answer, account, at_s FROM answers WHERE search = ? ORDER BY seq", search
        )
        return [row for row in rows if self._may_see(actor, row["tracklet"])]

    def hits(self, actor: Actor, search: str, after: int = 0, limit: int = 24) -> list[Found]:
        """Hits in the present order that the asker may see.

        Args:
            actor: who asks.
            search: its id.
            after: only hits behind this place.
            limit: at most so many.
        """
        row = self.get(actor, search)
        rows = self._database.all(
            "SELECT place, tracklet, score, crop_score FROM hits WHERE search = ? AND place > ? ORDER BY place",
            search,
            after,
        )
        said = self.answers(search)
        described = bool(row["description"]["having"] or row["description"]["lacking"])
        found: list[Found] = []
        for hit in rows:
            if len(found) == limit:
                break
            if self._may_see(actor, hit["tracklet"]):
                found.append(self._found(hit, said.get(hit["tracklet"]), described))
        return found

    def confirmed(self, actor: Actor, search: str) -> list[Found]:
        """The hits that were answered with yes, and that the asker may see, in the order of time."""
        self.get(actor, search)
        scores = {row["tracklet"]: row for row in self._database.all("SELECT * FROM hits WHERE search = ?", search)}
        found = [
            self._found(
                scores.get(tracklet, {"place": 0, "tracklet": tracklet, "score": 0.0, "crop_score": None}), said, False
            )
            for tracklet, said in self.answers(search).items()
            if said["answer"] == "yes" and self._may_see(actor, tracklet)
        ]
        return sorted(found, key=lambda one: one.tracklet.begin_s)

    def _found(self, hit: Row, said: Row | None, described: bool) -> Found:
        tracklet = self._library.tracklet(hit["tracklet"])
        meaning = (
            DESCRIBED
            if described and hit["crop_score"] is None
            else self._library.scale.explain(hit["crop_score"], len(tracklet.crops))
        )
        return Found(
            hit["place"],
            tracklet,
            hit["tracklet"],
            hit["score"],
            hit["crop_score"],
            meaning,
            said["answer"] if said else None,
            said["account"] if said else None,
            said["at_s"] if said else None,
        )

    def answer(self, actor: Actor, search: str, public: str, answer: Literal["yes", "no", "undone"]) -> None:
        """Keep what a person says of a hit, and rank again.

        Raises:
            MissingError: no such search or tracklet for the asker.
            DataError: nothing to undo.
        """
        row = self.get(actor, search)
        self.see_tracklet(actor, public)
        filters = {**row["filters"]}
        scope = filters.pop("role_cameras")
        with self._ranking:
            said = {tracklet: one["answer"] for tracklet, one in self.answers(search).items()}
            if answer == "undone":
                if public not in said:
                    raise DataError(f"nothing was said of {public}, so nothing can be undone")
                del said[public]
            else:
                said[public] = answer
            hits = self._rank(
                self.vector(search),
                row["description"],
                filters_from(filters),
                scope,
                [t for t, a in said.items() if a == "yes"],
                [t for t, a in said.items() if a == "no"],
            )
            with self._database.write() as tx:
                last = tx.one("SELECT MAX(seq) AS seq FROM answers")
                seq = int(last["seq"] or 0) + 1 if last else 1
                now = self._clock()
                tx.run("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", seq, search, public, answer, actor.name, now)
                self._store_hits(tx, search, hits)
                record(tx, actor.name, f"answer.{answer}", {"search": search, "tracklet": public}, row["reason"])

    # Timeline

    def timeline(self, actor: Actor, search: str) -> tuple[list[Appearance], list[Way]]:
        """Confirmed and proposed appearances in the order of time, and the ways between the confirmed ones."""
        shown = [
            Appearance(f.id, f.tracklet.camera, f.tracklet.begin_s, f.tracklet.end_s, True, f.score)
            for f in self.confirmed(actor, search)
        ]
        said, there = self.answers(search), {one.id for one in shown}
        for one in self.hits(actor, search, limit=TOP):
            if len(shown) - len(there) >= PROPOSED:
                break
            if one.id not in said:
                shown.append(
                    Appearance(one.id, one.tracklet.camera, one.tracklet.begin_s, one.tracklet.end_s, False, one.score)
                )
        listed = {one.id for one in shown}
        for public in self._linked(there):
            if public not in listed and public not in said and self._may_see(actor, public):
                tracklet = self._library.tracklet(public)
                shown.append(Appearance(public, tracklet.camera, tracklet.begin_s, tracklet.end_s, False, None))
        shown.sort(key=lambda one: (one.begin_s, one.id))
        return shown, self._ways([one for one in shown if one.confirmed])

    def _linked(self, publics: set[str]) -> list[str]:
        """Tracklets that the archives' own proposals link to these."""
        found = []
        for name, archive in self._library.archives.items():
            own = {p.partition("~")[2].replace("~", "/") for p in publics if p.startswith(f"{name}~")}
            if own:
                for link in read_links(archive):
                    if link.decision != "rejected" and (link.a in own) != (link.b in own):
                        other = link.b if link.a in own else link.a
                        found.append(f"{name}~{other.replace('/', '~')}")
        return [public for public in dict.fromkeys(found) if public in self._library.columns.place]

    def _ways(self, confirmed: Sequence[Appearance]) -> list[Way]:
        learnt = self.learn_ways()
        return [
            Way(a.id, b.id, b.begin_s - a.end_s, learnt.get(frozenset((a.camera, b.camera))))
            for a, b in itertools.pairwise(confirmed)
        ]

    def learn_ways(self) -> dict[frozenset[str], Travel]:
        """Travel times between cameras, from what was confirmed in all searches."""
        known = self._library.columns
        people: dict[str, list[str]] = {}
        for row in self._database.all("SELECT search, tracklet, answer FROM answers ORDER BY seq"):
            seen = people.setdefault(row["search"], [])
            if row["tracklet"] in seen:
                seen.remove(row["tracklet"])
            if row["answer"] == "yes" and row["tracklet"] in known.place:
                seen.append(row["tracklet"])
        result: dict[frozenset[str], Travel] = {}
        pairs: dict[str, dict[frozenset[str], Literal["confirmed"]]] = {}
        for seen in people.values():
            seen.sort(key=lambda public: known.begins[known.place[public]])
            for a, b in itertools.pairwise(seen):
                first, second = a.partition("~"), b.partition("~")
                if first[0] == second[0]:
                    pair = frozenset((first[2].replace("~", "/"), second[2].replace("~", "/")))
                    pairs.setdefault(first[0], {})[pair] = "confirmed"
        for name, decided in pairs.items():
            result |= learn_travel(self._library.archives[name], dict(decided))
        return result


def filters_from(values: dict[str, Any]) -> Filters:
    """``Filters`` from JSON values."""
    known: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in Filters.__dataclass_fields__
    }
    return replace(Filters(), **known)


def queries_vector(queries: Sequence[Query]) -> Floats | None:
    """(D,): several pictures as one person; None without any."""
    return mean_of([q.vector for q in queries]) if queries else None


def mean_of(vectors: Sequence[Floats]) -> Floats:
    """(D,), of length 1: the mean of directions."""
    total = np.mean([v / max(1e-12, float(np.linalg.norm(v))) for v in vectors], axis=0)
    result: Floats = (total / max(1e-12, float(np.linalg.norm(total)))).astype(np.float32)
    return result


def cut_box(picture: Image.Image, box: Sequence[float] | None, name: str) -> Image.Image:
    """The part of a picture in a box (left, top, right, bottom in pixels), or all of it.

    Raises:
        ImageError: a box that is not finite, lies outside, or is smaller than 4 x 8 pixels.
    """
    if box is None:
        return picture
    if len(box) != 4 or not np.isfinite(box).all():
        raise ImageError(name, f"the box {list(box)} must be left, top, right, bottom in pixels")
    left, top = max(0, int(box[0])), max(0, int(box[1]))
    right, bottom = min(picture.width, int(np.ceil(box[2]))), min(picture.height, int(np.ceil(box[3])))
    if right - left < 4 or bottom - top < 8:
        raise ImageError(
            name,
            f"the box {[round(float(v), 1) for v in box]} covers less than 4 x 8 pixels of "
            f"{picture.width} x {picture.height}; draw a larger one",
        )
    return picture.crop((left, top, right, bottom))


def encode_small(picture: Image.Image) -> bytes:
    """JPEG of at most 512 x 512 pixels, without metadata."""
    check_size("the picture", picture.size)
    small = picture.copy()
    small.thumbnail(KEPT_WH)
    with io.BytesIO() as file:
        small.save(file, format="JPEG", quality=88)
        return file.getvalue()


def small_jpeg(content: bytes) -> bytes:
    """The same for a file's bytes."""
    return encode_small(decode_image(content, "the crop"))


def clean_label(name: str) -> str:
    """A file's name as a label: its last part, printable characters only, at most 80."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[:80] or "photo"
