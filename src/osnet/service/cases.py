"""Cases: named collections of searches with notes, and their export as a ZIP file that can be checked."""

import hashlib
import html
import json
import secrets
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from osnet.errors import DataError
from osnet.service.audit import record
from osnet.service.database import Database, Row, Transaction
from osnet.service.gallery_crops import GalleryCrop
from osnet.service.library import Library
from osnet.service.media import made_clip
from osnet.service.roles import AccessError, Actor
from osnet.service.searches import Found, MissingError, Searches
from osnet.service.times import show_time
from osnet.video.archive import format_time
from osnet.video.protocols import FootageError

MAX_NOTES, MAX_TITLE = 20_000, 200
MAX_EXPORTED = 200
"""So many confirmed tracklets go into one export."""


def delete_case(tx: Transaction, account: str, case: str) -> None:
    """Delete a case, its searches, and the entries of the watch list that look for them; the log names these."""
    entries = tx.all("SELECT w.id FROM watch_entries w JOIN searches s ON s.id = w.search WHERE s.case_id = ?", case)
    for row in entries:
        record(tx, account, "watch.remove", {"entry": row["id"], "case": case})
    tx.run("DELETE FROM searches WHERE case_id = ?", case)
    tx.run("DELETE FROM cases WHERE id = ?", case)


class Cases:
    """All cases of a service."""

    def __init__(
        self, database: Database, library: Library, searches: Searches, clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._library, self._searches, self._clock = database, library, searches, clock

    def create(self, actor: Actor, title: str, notes: str = "", reason: str = "") -> str:
        """Begin a case. Returns its id. Raises DataError for a title or notes that are too long or empty."""
        _check(title, notes)
        case, now = secrets.token_urlsafe(9), self._clock()
        with self._database.write() as tx:
            tx.run("INSERT INTO cases VALUES (?, ?, ?, ?, ?, ?)", case, title, notes, reason, actor.name, now)
            record(tx, actor.name, "case.create", {"case": case}, reason)
        return case

    def get(self, case: str) -> Row:
        """A case with the ids of its searches. Raises MissingError."""
        row = self._database.one("SELECT * FROM cases WHERE id = ?", case)
        if row is None:
            raise MissingError(f"there is no case {case[:100]!r}")
        searches = self._database.all(
            "SELECT id, account, reason, description, created_s FROM searches WHERE case_id = ? ORDER BY created_s",
            case,
        )
        return {**row, "searches": searches}

    def list_cases(self, before_s: float = float(2**40), limit: int = 50) -> list[Row]:
        """The newest cases first."""
        return self._database.all(
            "SELECT id, title, account, created_s, "
            "(SELECT COUNT(*) FROM searches WHERE case_id = cases.id) AS searches FROM cases "
            "WHERE created_s < ? ORDER BY created_s DESC LIMIT ?",
            before_s,
            limit,
        )

    def change(self, actor: Actor, case: str, title: str | None = None, notes: str | None = None) -> None:
        """New title or notes."""
        with self._database.write() as tx:
            there = self.get(case)
            title, notes = there["title"] if title is None else title, there["notes"] if notes is None else notes
            _check(title, notes)
            tx.run("UPDATE cases SET title = ?, notes = ? WHERE id = ?", title, notes, case)
            record(tx, actor.name, "case.change", {"case": case})

    def attach(self, actor: Actor, case: str, search: str) -> None:
        """Put a search into a case, where everybody who may view cases sees it.

        Raises:
            MissingError: no such case or search.
            AccessError: it is in another case, and they neither made it nor administer. Who begins a case may delete
                it with its searches.
        """
        with self._database.write() as tx:
            self.get(case)
            row = self._searches.get(actor, search)
            if row["case_id"] not in (None, case) and row["account"] != actor.name and not actor.may("admin"):
                raise AccessError("only who made a search, or an administrator, can take it out of its case")
            tx.run("UPDATE searches SET case_id = ? WHERE id = ?", case, search)
            record(tx, actor.name, "case.attach", {"case": case, "search": search})

    def delete(self, actor: Actor, case: str) -> None:
        """Delete a case with its searches. Raises AccessError unless it is theirs or they administer."""
        there = self.get(case)
        if there["account"] != actor.name and not actor.may("admin"):
            raise AccessError("only who began a case, or an administrator, can delete it")
        with self._database.write() as tx:
            delete_case(tx, actor.name, case)
            record(tx, actor.name, "case.delete", {"case": case})

    def export(self, actor: Actor, case: str, out: Path, reason: str) -> str:
        """Write a ZIP: crops, clips, a report, and a manifest with the SHA-256 of each file. Returns the ZIP's SHA-256.

        It holds the confirmed hits that the asker may see. A clip whose footage is gone is left out, and the report
        says so. Names in the ZIP are ours; no text of a user becomes one.

        Args:
            actor: who asks.
            case: its id.
            out: the ZIP file.
            reason: why; it stands in the manifest.

        Raises:
            DataError: nothing is confirmed, or more than 200 tracklets are.
            MissingError: no such case, or a tracklet was erased meanwhile; the ZIP must not be used.
        """
        there = self.get(case)
        parts = [(row, self._searches.confirmed(actor, row["id"])) for row in there["searches"]]
        total = sum(len(found) for _, found in parts)
        if not 0 < total <= MAX_EXPORTED:
            raise DataError(f"the case has {total} confirmed hits; an export holds from 1 to {MAX_EXPORTED}")
        files: list[dict[str, Any]] = []
        now = self._clock()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:

            def add(name: str, content: bytes, **about: Any) -> None:
                archive.writestr(zipfile.ZipInfo(name, _zip_time(now)), content)
                files.append(
                    {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), **about}
                )

            sections = []
            for number, (row, found) in enumerate(parts, 1):
                for query in self._searches.queries(actor, row["id"]):
                    picture = self._searches.query_picture(actor, row["id"], query["place"])
                    add(f"search-{number}/query-{query['place']}.jpg", picture)
                lines = [
                    self._add_hit(add, f"search-{number}/hit-{k:03d}", hit, out.parent)
                    for k, hit in enumerate(found, 1)
                ]
                sections.append((row, lines))
            add("report.html", _report(there, sections, actor, reason, now).encode())
            manifest = {
                "format": "osnet-case-1",
                "case": case,
                "title": there["title"],
                "exported_by": actor.name,
                "reason": reason,
                "exported_at": format_time(now),
                "weights": self._library.weights_name,
                "weights_sha256": self._library.weights_sha256,
                "calibration": self._library.scale.to_json(),
                "searches": [
                    {"by": row["account"], "reason": row["reason"], "at": format_time(row["created_s"])}
                    for row, _ in parts
                ],
                "files": files,
            }
            archive.writestr(
                zipfile.ZipInfo("manifest.json", _zip_time(now)), json.dumps(manifest, indent=2, ensure_ascii=False)
            )
        with out.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        tracklets = sorted({hit.id for _, found in parts for hit in found})
        with self._database.write() as tx:
            self._searches.check_there(tracklets)
            tx.run(
                "INSERT INTO exports VALUES (?, ?, ?, ?, ?, ?, ?)",
                secrets.token_urlsafe(9),
                case,
                actor.name,
                reason,
                now,
                digest,
                json.dumps(tracklets),
            )
            record(tx, actor.name, "case.export", {"case": case, "sha256": digest, "tracklets": tracklets}, reason)
        return digest

    def _add_hit(self, add: Callable[..., None], name: str, hit: Found, folder: Path) -> dict[str, Any]:
        seen = self._library.tracklet(hit.id)
        about: dict[str, Any] = {
            "tracklet": hit.id,
            "camera": seen.camera or "unknown",
            "from": show_time(seen.begin_s),
            "to": show_time(seen.end_s),
        }
        if isinstance(seen, GalleryCrop):
            about |= {"source": seen.source, "identity": seen.identity}
        notes, has_clip, has_crop = [], False, True
        for number, crop in enumerate(seen.crops, 1):
            try:
                content = self._library.picture(seen, number)
            except FootageError:
                notes.append("no picture: it is not where it was indexed")
                has_crop = False
                continue
            add(f"{name}-crop-{number}.jpg", content, taken=show_time(crop.time_s), **about)
        try:
            with made_clip(seen, folder / "clips") as clip:
                add(f"{name}.mp4", clip.read_bytes(), **about)
                has_clip = True
        except FootageError:
            notes.append(
                "no clip: a crop of a gallery has no footage"
                if isinstance(seen, GalleryCrop)
                else "no clip: the footage is not there any more, or the passage is too long"
            )
        return {
            **about,
            "score": hit.score,
            "meaning": hit.meaning.text,
            "by": hit.answered_by,
            "at": format_time(hit.answered_s or 0.0),
            "picture": f"{name}-crop-1.jpg" if has_crop else "",
            "note": "; ".join(notes),
            "clip": f"{name}.mp4" if has_clip else "",
        }


def _check(title: str, notes: str) -> None:
    if not title.strip() or len(title) > MAX_TITLE or not title.isprintable():
        raise DataError(f"a case's title has 1 to {MAX_TITLE} printable characters; this has {len(title)}")
    if len(notes) > MAX_NOTES:
        raise DataError(f"notes of {len(notes):,} characters; at most {MAX_NOTES:,}")


def _zip_time(time_s: float) -> tuple[int, int, int, int, int, int]:
    moment = datetime.fromtimestamp(max(time_s, 315_532_800.0), UTC)  # ZIP knows no time before 1980
    return moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second


def _report(case: Row, sections: list[tuple[Row, list[dict[str, Any]]]], actor: Actor, reason: str, now: float) -> str:
    """A page without scripts that shows the pictures beside it."""
    e = html.escape
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Case</title>",
        f"<h1>{e(case['title'])}</h1>",
        f"<p>Exported by {e(actor.name)}, {format_time(now)}. Reason: {e(reason) or '(none)'}</p>",
        f"<pre>{e(case['notes'])}</pre>",
        "<p>Times are UTC. A score is a proposal of a program; each hit was confirmed by the person who is named.</p>",
    ]
    for row, lines in sections:
        parts.append(
            f"<h2>Search by {e(row['account'])}, {format_time(row['created_s'])}</h2><p>{e(row['reason'])}</p>"
        )
        for line in lines:
            parts.append(
                f"<h3>{e(line['camera'])}, {line['from']} to {line['to']}</h3>"
                + (f'<img src="{line["picture"]}" alt=crop>' if line["picture"] else "")
                + (f"<p>{e(line['source'])}</p>" if "source" in line else "")
                + f"<p>score {line['score']:.3f}: {e(line['meaning'])}. Confirmed by {e(line['by'] or '')}, "
                f"{line['at']}. {e(line['note'])}</p>"
            )
            if line["clip"]:
                parts.append(f'<video controls src="{line["clip"]}"></video>')
    return "\n".join(parts)
