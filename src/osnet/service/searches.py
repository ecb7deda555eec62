"""Searches: what was asked, what was found, what people answered, and where the person was when.

A search keeps its query, its hits in order, and every answer. Answers are only added: undoing one is an answer too, so
who said what when stays known. The last one counts.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osnet.data.loading import decode_image
from osnet.errors import DataError, GalleryError
from osnet.service.audit import record
from osnet.service.columns import Filters, Glance
from osnet.service.database import Database, Row, Transaction
from osnet.service.gallery_crops import GalleryCrop
from osnet.service.library import Library, ScoredTracklet
from osnet.service.queries import (
    Query,
    clean_label,
    cut_box,
    encode_small,
    filters_from,
    keep_small,
    mean_of,
    queries_vector,
    refine_query,
    small_jpeg,
)
from osnet.service.roles import AccessError, Actor
from osnet.service.scores import DESCRIBED, Meaning
from osnet.video.archive import Tracklet
from osnet.video.protocols import FootageError

Floats = NDArray[np.float32]
Answer = Literal["yes", "no"]
TOP = 200
"""So many hits of a search are kept."""
MAX_QUERIES = 16
MAX_UPLOAD_PIXELS = 25_000_000


class MissingError(GalleryError):
    """There is no such thing, or the asker may not see it. It does not say which."""


@dataclass(frozen=True)
class Found:
    """One hit as it is shown."""

    place: int
    """From 1, in the present order."""
    seen: Glance
    id: str
    score: float
    crop_score: float | None
    meaning: Meaning
    answer: Answer | None
    answered_by: str | None
    answered_s: float | None


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
        return self._query(cut_box(frame, box, "the frame"), f"{camera} at {time_s:.1f}", camera)

    def read_tracklet(self, actor: Actor, public: str) -> Query:
        """A query from a tracklet: its mean. Raises MissingError if the asker may not see it."""
        tracklet = self.see_tracklet(actor, public)
        return Query(str(tracklet), self._small_picture(tracklet), self._library.mean(public), public)

    def _small_picture(self, tracklet: Tracklet) -> bytes:
        try:
            content = self._library.picture(tracklet)
            return small_jpeg(content) if isinstance(tracklet, GalleryCrop) else keep_small(content)
        except FootageError:  # a gallery's crop whose picture is not there can still be searched by
            return encode_small(Image.new("RGB", (64, 128), (128, 128, 128)))

    def see_tracklet(self, actor: Actor, public: str) -> Tracklet:
        """A tracklet that the asker may see. Raises MissingError else."""
        try:
            seen = actor.sees(self._library.camera_of(public))
        except GalleryError:
            seen = False
        if not seen:
            raise MissingError(f"there is no tracklet {public[:200]!r}")
        return self._library.tracklet(public)

    def _query(self, crop: Image.Image, label: str, camera: str | None = None) -> Query:
        return Query(label, encode_small(crop), self._library.embed([crop])[0], camera=camera)

    # Searches

    def check_request(self, num_pictures: int, described: bool, case_id: str | None) -> None:
        """Check what costs nothing to check, before pictures are read.

        Raises:
            DataError: nothing to search for, both pictures and a description, or too many pictures.
            MissingError: no such case.
        """
        if bool(num_pictures) == described:
            raise DataError("give pictures of a person, or a description; one of the two")
        if num_pictures > MAX_QUERIES:
            raise DataError(f"{num_pictures} pictures; at most {MAX_QUERIES} make one search")
        if case_id is not None and self._database.one("SELECT id FROM cases WHERE id = ?", case_id) is None:
            raise MissingError(f"there is no case {case_id[:100]!r}")

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
        then: Callable[[str], None] | None = None,
    ) -> str:
        """Search and keep it. Returns its id.

        Args:
            actor: who asks.
            queries: pictures of one person.
            filters: which tracklets are looked at.
            having, lacking: a description instead of pictures.
            reason: why.
            case_id: a case that it goes into.
            then: is told the id in the same transaction, so that what it writes costs no second one.

        Raises:
            DataError: nothing to search for, both pictures and a description, or too many pictures.
            MissingError: no such case, or a tracklet of the query was erased meanwhile.
        """
        self.check_request(len(queries), bool(having or lacking), case_id)
        description = {"having": list(having), "lacking": list(lacking)}
        scope = None if actor.cameras is None else sorted(actor.cameras)
        hits = self._rank(queries_vector(queries), description, filters, scope, [], [])
        search, now = secrets.token_urlsafe(12), self._clock()
        stored = {**vars(filters), "role_cameras": scope}
        with self._database.write() as tx:
            if case_id is not None and tx.one("SELECT id FROM cases WHERE id = ?", case_id) is None:
                raise MissingError(f"there is no case {case_id[:100]!r}")
            self.check_there(q.tracklet for q in queries if q.tracklet)
            hits = self.still_there(hits)
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
                "INSERT INTO queries VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (search, place, q.label, q.tracklet, q.jpeg, np.asarray(q.vector, "<f4").tobytes(), q.camera)
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
            if then is not None:
                then(search)
        return search

    def check_there(self, publics: Iterable[str]) -> None:
        """Raise MissingError for a tracklet that was erased meanwhile. For use in the transaction that stores it.

        An erasure removes a tracklet from the library first, and from the state in a later transaction.
        """
        known = self._library.columns.place
        for public in publics:
            if public not in known:
                raise MissingError(f"there is no tracklet {public[:200]!r} any more")

    def still_there(self, hits: Sequence[ScoredTracklet]) -> list[ScoredTracklet]:
        """The hits that were not erased meanwhile, as ``check_there``."""
        known = self._library.columns.place
        return [hit for hit in hits if hit.id in known]

    @staticmethod
    def _store_hits(tx: Transaction, search: str, hits: Sequence[ScoredTracklet]) -> None:
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
        rows = self._database.all(
            "SELECT place, label, tracklet, camera FROM queries WHERE search = ? ORDER BY place", search
        )
        return [
            row
            for row in rows
            if ((camera := row.pop("camera")) is None or actor.sees(camera))
            and (row["tracklet"] is None or self.may_see(actor, row["tracklet"]))
        ]

    def query_picture(self, actor: Actor, search: str, place: int) -> bytes:
        """JPEG. Raises MissingError if there is none, or the asker may not see it."""
        if place not in {row["place"] for row in self.queries(actor, search)}:
            raise MissingError(f"the search {search[:100]!r} has no picture {place}")
        row = self._database.one("SELECT jpeg FROM queries WHERE search = ? AND place = ?", search, place)
        assert row is not None
        return bytes(row["jpeg"])

    def may_see(self, actor: Actor, public: str) -> bool:
        """True if a tracklet is there, in a camera of the asker's role."""
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
        return [row for row in rows if self.may_see(actor, row["tracklet"])]

    def hits(self, actor: Actor, search: str, after: int = 0, limit: int = 24) -> list[Found]:
        """Hits in the present order that the asker may see.

        Args:
            actor: who asks.
            search: its id.
            after: only hits behind this place.
            limit: at most so many.
        """
        row = self.get(actor, search)
        said = self.answers(search)
        described = bool(row["description"]["having"] or row["description"]["lacking"])
        found: list[Found] = []
        while len(found) < limit:
            rows = self._database.all(
                "SELECT place, tracklet, score, crop_score FROM hits WHERE search = ? AND place > ? "
                "ORDER BY place LIMIT ?",
                search,
                after,
                limit - len(found),
            )
            if not rows:
                break
            after = rows[-1]["place"]
            found += [
                self._found(hit, said.get(hit["tracklet"]), described)
                for hit in rows
                if self.may_see(actor, hit["tracklet"])
            ]
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
            if said["answer"] == "yes" and self.may_see(actor, tracklet)
        ]
        return sorted(found, key=lambda one: (np.isnan(one.seen.begin_s), one.seen.begin_s))

    def _found(self, hit: Row, said: Row | None, described: bool) -> Found:
        seen = self._library.glance(hit["tracklet"])
        meaning = (
            DESCRIBED
            if described and hit["crop_score"] is None
            else self._library.scale.explain(hit["crop_score"], seen.num_crops)
        )
        return Found(
            hit["place"],
            seen,
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
            MissingError: no such search or tracklet for the asker, or it was deleted meanwhile.
            DataError: nothing to undo.
        """
        vector, row = self.vector(search), self.get(actor, search)  # in this order: the vector is of a search that is
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
                vector,
                row["description"],
                filters_from(filters),
                scope,
                [t for t, a in said.items() if a == "yes"],
                [t for t, a in said.items() if a == "no"],
            )
            with self._database.write() as tx:
                if tx.one("SELECT id FROM searches WHERE id = ?", search) is None:
                    raise MissingError(f"there is no search {search[:100]!r} any more")
                self.check_there([public])
                last = tx.one("SELECT MAX(seq) AS seq FROM answers")
                seq = int(last["seq"] or 0) + 1 if last else 1
                now = self._clock()
                tx.run("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)", seq, search, public, answer, actor.name, now)
                tx.run("DELETE FROM hits WHERE search = ?", search)
                self._store_hits(tx, search, self.still_there(hits))
                record(tx, actor.name, f"answer.{answer}", {"search": search, "tracklet": public}, row["reason"])
