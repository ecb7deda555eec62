"""Erase a person: see what would go, erase it, look for the bytes, and say what cannot be reached.

The plan names tracklets, crops of galleries, and searches. Erasing rewrites the segments of archives and galleries,
deletes the rows of the state, empties the database's log, and then looks in every file of the archives' top and touched
segments, and of the state, for pieces of the erased embeddings, pictures and ids. Galleries look into their own files.
An erasure that was interrupted or failed is repeated at the next start, and one that failed each hour too.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osnet.errors import DataError, GalleryError, OsnetError
from osnet.service.audit import erase_details, record
from osnet.service.columns import public_id, split_public_id
from osnet.service.database import Database, Transaction, lists_of
from osnet.service.gallery_crops import GalleryCrop
from osnet.service.library import Library
from osnet.service.retention import forget_tracklets
from osnet.service.roles import Actor
from osnet.service.searches import Searches
from osnet.service.times import show_time
from osnet.video.archive import format_time
from osnet.video.erasing import find_twins, remove_tracklets

PIECE = 24
"""Bytes of a vector that are looked for: six numbers."""
PICTURE_PIECE = 64
START_OF_SCAN = b"\xff\xda"
"""JPEG's marker before the pixels."""
BLOCK = 1 << 24


@dataclass(frozen=True)
class ErasurePlan:
    """What an erasure would remove."""

    tracklets: tuple[str, ...]
    """Public ids."""
    searches: tuple[str, ...]
    contents: dict[str, Any]
    """Counts, and names of what would be rewritten, for people to read."""

    @property
    def digest(self) -> str:
        """What a confirmation repeats, so that nothing else is erased than what was seen."""
        return hashlib.sha256(json.dumps([self.tracklets, self.searches]).encode()).hexdigest()[:16]


class Erasure:
    """Erases people from archives and state.

    Args:
        database: the state.
        library: the archives.
        searches: by which people are found.
        folder: of the state; everything in it is looked through.
        clock: gives Unix time.
    """

    def __init__(
        self,
        database: Database,
        library: Library,
        searches: Searches,
        folder: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._library, self._searches = database, library, searches
        self._folder, self._clock = folder, clock

    def plan(self, actor: Actor, tracklets: Sequence[str], searches: Sequence[str] = ()) -> ErasurePlan:
        """What would go.

        Args:
            actor: must see every camera that is touched.
            tracklets: public ids.
            searches: those that were made to find this person; they go with their pictures, hits and answers. Added
                are searches with the same picture, those made from one of the tracklets, and those in which one of
                them was confirmed: their pictures show the person too.

        Raises:
            MissingError: a tracklet or a search that is not there.
            DataError: nothing is named.
        """
        if not tracklets and not searches:
            raise DataError("nothing to erase: name tracklets, or searches")
        for public in tracklets:
            self._searches.see_tracklet(actor, public)
        twins = self._twins(tracklets)
        tracklets = tuple(sorted({*tracklets, *twins}))
        seen = {public: self._searches.see_tracklet(actor, public) for public in tracklets}
        for search in searches:
            self._searches.get(actor, search)
        own = set(searches)
        counts = dict.fromkeys(("hits", "answers", "alerts"), 0)
        cases: set[str] = set()
        exports: list[dict[str, Any]] = []
        for search in searches:
            own |= self._same_pictures(search)
        for public in tracklets:
            own |= {r["search"] for r in self._database.all("SELECT search FROM queries WHERE tracklet = ?", public)}
            own |= self._searches.answered_yes(public)
            cases |= {
                r["title"]
                for r in self._database.all(
                    "SELECT c.title FROM cases c JOIN searches s ON s.case_id = c.id JOIN answers a ON a.search = s.id "
                    "WHERE a.tracklet = ?",
                    public,
                )
            }
        for marks, some in lists_of(tracklets):
            for table in counts:
                count = f"SELECT COUNT(*) AS n FROM {table} WHERE tracklet IN ({marks})"  # noqa: S608  our own names
                counts[table] += sum(int(found["n"]) for found in self._database.all(count, *some))
        for row in self._database.all("SELECT id, account, at_s, sha256, tracklets FROM exports"):
            if set(json.loads(row["tracklets"])) & set(tracklets):
                exports.append({"by": row["account"], "at": format_time(row["at_s"]), "sha256": row["sha256"]})
        pictures = sum(
            int(counted["n"])
            for search in own
            if (counted := self._database.one("SELECT COUNT(*) AS n FROM queries WHERE search = ?", search))
        )
        contents = {
            "tracklets": [
                {"id": p, "camera": t.camera, "from": show_time(t.begin_s), "to": show_time(t.end_s)}
                for p, t in seen.items()
            ],
            "twins": twins,
            "num_crops": sum(len(t.crops) for t in seen.values()),
            "num_vectors": sum(1 if isinstance(t, GalleryCrop) else len(t.crops) + 1 for t in seen.values()),
            "segments": sorted({self._segment_of(p) for p in tracklets}),
            "num_searches": len(own),
            "num_query_pictures": pictures,
            **{f"num_{table}": n for table, n in counts.items()},
            "cases": sorted(cases),
            "out_of_reach": {
                "exports": exports,
                "footage": sorted(
                    f"{Path(t.footage).name}: {format_time(t.begin_s)} to {format_time(t.end_s)}"
                    for t in seen.values()
                    if not isinstance(t, GalleryCrop)
                ),
                "pictures": sorted(t.source for t in seen.values() if isinstance(t, GalleryCrop)),
                "backups": "copies of archives and state that were made elsewhere",
                "storage": "blocks that file systems and disks keep of deleted files",
            },
        }
        return ErasurePlan(tracklets, tuple(sorted(own)), contents)

    def _same_pictures(self, search: str) -> set[str]:
        """Searches by one of the pictures of a search."""
        rows = self._database.all(
            "SELECT DISTINCT o.search FROM queries q JOIN queries o ON o.vector = q.vector WHERE q.search = ?", search
        )
        return {row["search"] for row in rows}

    def _twins(self, tracklets: Sequence[str]) -> list[str]:
        """Public ids of tracklets with the same crops, where segments overlap; of crops with the same embedding."""
        found: list[str] = []
        for name, own in by_name(tracklets).items():
            if name in self._library.galleries:
                found += self._library.galleries[name].twins(own)
            else:
                ids = [split_public_id(public)[1] for public in own]
                found += [public_id(name, twin) for twin in find_twins(self._library.archives[name], ids)]
        return found

    def _segment_of(self, public: str) -> str:
        """What is rewritten: a segment of an archive, or a gallery."""
        name, rest = split_public_id(public)
        return name if name in self._library.galleries else f"{name}/{rest.rpartition('/')[0]}"

    def run(self, account: str, reason: str, plan: dict[str, Any], job: str = "") -> dict[str, Any]:
        """Erase what a plan names; return the report. It may run again after it was interrupted.

        A camera or gallery that cannot be written, as while another process writes to it, stops nothing else: the
        rest is erased, also from the state. ``error`` in the report names it, and the job's input then names what is
        left, for another run.

        Args:
            account: who asked.
            reason: why.
            plan: ``tracklets``, ``searches`` and ``contents`` of an ``ErasurePlan``.
            job: id of the job that holds the plan. Its input names what is erased, so that is removed too.

        Raises:
            StateError: the state cannot be written.
        """
        tracklets, searches = set(plan["tracklets"]), set(plan["searches"])
        probes = self._probes(tracklets, searches)
        before = self._library.columns
        touched: list[str] = []
        removed = {"tracklets": 0, "crops": 0, "links": 0}
        looked: list[dict[str, Any]] = []
        left: set[str] = set()
        errors: list[str] = []
        for place, publics in by_camera(tracklets).items():
            name = place.partition("/")[0]
            try:
                if name in self._library.galleries:
                    gone, erased = self._library.galleries[name].erase(publics)
                    if erased is not None:
                        touched.append(name)
                        removed["gallery_crops"] = removed.get("gallery_crops", 0) + len(gone)
                        again = list(erased.found_again)
                        looked.append({"gallery": name, "bytes": erased.bytes_searched, "found": again})
                    continue
                if name not in self._library.archives:
                    raise GalleryError(f"the archive {name} is not served")
                archive = self._library.archives[name]
                removal = remove_tracklets(archive, [split_public_id(public)[1] for public in publics])
            except (OsnetError, OSError) as error:
                errors.append(f"{place}: {error}")
                left |= set(publics)
                continue
            touched += [f"{name}/{segment}" for segment in removal.rewritten]
            removed["tracklets"] += len(removal.tracklets)
            removed["crops"] += removal.num_crops
            removed["links"] += removal.num_links
        self._library.refresh(force=True)
        half = {p for p in left if p in before.place and p not in self._library.columns.place}  # gone before an error
        touched += sorted({self._segment_of(public) for public in half})
        removed["tracklets"] += len(half)
        removed["crops"] += sum(before.glance(before.place[public]).num_crops for public in half)
        for name, why in self._library.troubles.items():  # it is still searched as it was before
            if seen := {
                p for p in tracklets - left if p in self._library.columns.place and split_public_id(p)[0] == name
            }:
                errors.append(why)
                left |= seen
        with self._database.write() as tx:
            rows = forget_tracklets(tx, tracklets)
            for search in searches:
                rows["searches"] += tx.run("DELETE FROM searches WHERE id = ?", search)
            entries = erase_details(tx, account, tracklets | searches, reason)
            what = {"segments": touched, **removed, "rows": rows, "audit_entries": len(entries)}
            record(tx, account, "erasure", what, reason)
            report = {
                "erased_at": format_time(self._clock()),
                "rewritten": touched,
                "removed": removed,
                "rows": rows,
                "audit_entries_without_details": entries,
                "out_of_reach": {**plan["contents"]["out_of_reach"], "state": self._database.out_of_reach()},
            }
            if errors:
                report["error"] = "not all was erased: " + "; ".join(errors)
                rest = {
                    "tracklets": sorted(left),
                    "searches": [],
                    "contents": {"out_of_reach": plan["contents"]["out_of_reach"]},
                }
                tx.run("UPDATE jobs SET input = ? WHERE id = ?", json.dumps(rest), job)
            else:
                unchecked = {**report, "check": "interrupted before the files were looked through"}
                tx.run("UPDATE jobs SET input = '{}', report = ? WHERE id = ?", json.dumps(unchecked), job)
            _forget_in_failed(tx, tracklets - left, searches)
        self._database.forget()
        found, looked_at = self._look_for(probes, tracklets, touched)
        return {
            **report,
            "check": {
                "pieces": sum(map(len, probes.values())),
                "files": len(looked_at),
                "bytes": sum(path.stat().st_size for path in looked_at if path.exists())
                + sum(one["bytes"] for one in looked),
                "found": found + [f"{one['gallery']}/{file}" for one in looked for file in one["found"]],
                "galleries": looked,
                "means": "pieces of each embedding, picture and id were looked for in these files after erasing",
            },
        }

    def _probes(self, tracklets: Iterable[str], searches: Iterable[str]) -> dict[str, list[bytes]]:
        """Pieces that must not be found afterwards, by what they are of."""
        vectors: list[bytes] = []
        pictures: list[bytes] = []
        names: list[bytes] = []
        for public in tracklets:
            # Both forms of an id: in addresses, and in the archive's own files.
            names += [public.encode(), split_public_id(public)[1].encode()]
            if public in self._library.columns.place:
                rows = [*self._library.vectors(public), self._library.mean(public)]
                vectors += [piece for row in rows if (piece := vector_piece(row))]
                seen = self._library.tracklet(public)
                if isinstance(seen, GalleryCrop):  # its source stands in the report: it is what cannot be reached
                    continue
                for crop in seen.crops:
                    pictures += picture_pieces(crop.path.read_bytes()) if crop.path.is_file() else []
        for search in searches:
            for row in self._database.all("SELECT jpeg, vector FROM queries WHERE search = ?", search):
                pictures += picture_pieces(bytes(row["jpeg"]))
                if piece := vector_piece(np.frombuffer(row["vector"], "<f4")):
                    vectors.append(piece)
        return {
            "vector": [re.escape(piece) for piece in vectors],
            "picture": [re.escape(piece) for piece in pictures],
            "id": [re.escape(name) + b"(?![0-9])" for name in names],  # tracklet 1 is not 12
        }

    def _look_for(
        self, probes: dict[str, list[bytes]], tracklets: set[str], touched: Sequence[str]
    ) -> tuple[list[str], list[Path]]:
        places = [path for path in self._folder.rglob("*") if path.is_file()]
        places += [path for path in self._database.files() if not path.is_relative_to(self._folder)]
        for name in self._library.archives:
            folder = self._library.folders[name]
            places += [path for path in folder.iterdir() if path.is_file()]
            segments = {t.partition("/")[2] for t in touched if t.startswith(f"{name}/")}
            segments |= {split_public_id(p)[1].rpartition("/")[0] for p in tracklets if p.startswith(f"{name}~")}
            for segment in segments:
                parent = (folder / segment).parent
                places += [path for path in parent.rglob("*") if path.is_file()] if parent.is_dir() else []
        found = []
        for kind, patterns in probes.items():
            for path in dict.fromkeys(places):
                if patterns and holds_any(path, patterns):
                    found.append(f"{kind} in {self._name(path)}")
        return found, list(dict.fromkeys(places))

    def _name(self, path: Path) -> str:
        """A file's path from the archive or the state on, without what lies above."""
        for folder in (self._folder, *self._library.folders.values()):
            if path.is_relative_to(folder):
                return f"{folder.name}/{path.relative_to(folder)}"
        return path.name


def _forget_in_failed(tx: Transaction, tracklets: set[str], searches: set[str]) -> None:
    """Remove what was erased from the plans of other erasures that failed; what is left of them runs again."""
    for row in tx.all("SELECT id, input FROM jobs WHERE kind = 'erasure' AND state = 'failed' AND input <> '{}'"):
        plan = json.loads(row["input"])
        rest = {
            "tracklets": [public for public in plan["tracklets"] if public not in tracklets],
            "searches": [search for search in plan["searches"] if search not in searches],
            "contents": {"out_of_reach": plan["contents"]["out_of_reach"]},
        }
        kept = rest if rest["tracklets"] or rest["searches"] else {}
        tx.run("UPDATE jobs SET input = ? WHERE id = ?", json.dumps(kept), row["id"])


def by_camera(publics: Iterable[str]) -> dict[str, list[str]]:
    """Public ids by gallery (``NAME``) or by archive and camera (``NAME/CAMERA``), in the order of names."""
    found: dict[str, list[str]] = {}
    for public in sorted(publics):
        name, rest = split_public_id(public)
        parts = rest.split("/")  # DAY/CAMERA/TIME/NUMBER, or a gallery's digest
        found.setdefault(f"{name}/{parts[1]}" if len(parts) > 1 else name, []).append(public)
    return found


def by_name(publics: Iterable[str]) -> dict[str, list[str]]:
    """Public ids by the archive or gallery that they are of, in the order of names."""
    found: dict[str, list[str]] = {}
    for public in sorted(publics):
        found.setdefault(split_public_id(public)[0], []).append(public)
    return found


def vector_piece(vector: np.ndarray[Any, np.dtype[np.float32]]) -> bytes | None:
    """24 bytes of a vector's numbers that no other vector has: the six neighbours with the fewest zeros."""
    values = np.ascontiguousarray(vector, "<f4")
    if len(values) < 6:
        return None
    filled = np.convolve(values != 0, np.ones(6), "valid")
    place = int(np.argmax(filled))
    return values[place : place + 6].tobytes() if filled[place] >= 3 else None


def picture_pieces(content: bytes) -> list[bytes]:
    """64 bytes from the middle and from the third quarter of a JPEG's pixels, behind its tables, which others share.

    Two, because a database may cut a picture between its pages, and so a piece too. None of a tiny or plain picture.
    """
    begin = content.rfind(START_OF_SCAN) + 16
    length = len(content) - begin
    if length < 4 * PICTURE_PIECE:
        return []
    pieces = [content[p : p + PICTURE_PIECE] for p in (begin + length // 2, begin + length * 3 // 4)]
    return [piece for piece in pieces if len(set(piece)) > PICTURE_PIECE // 4]


def holds_any(path: Path, patterns: Sequence[bytes]) -> bool:
    """True if a file's bytes match one of these patterns, each at most 300 bytes long."""
    pattern = re.compile(b"|".join(patterns), re.DOTALL)
    tail = b""
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                if pattern.search(tail + block):
                    return True
                tail = block[-300:]
    except FileNotFoundError:
        return False
    return False
