"""Where a person was when: confirmed and proposed appearances, and the ways between cameras."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from osnet.service.columns import public_id, split_public_id
from osnet.service.database import Database
from osnet.service.library import Library
from osnet.service.roles import Actor
from osnet.service.searches import TOP, Searches
from osnet.service.times import CLOCK_FROM_S
from osnet.video.links import Travel, learn_travel, read_links

PROPOSED = 12
"""So many unanswered hits stand on a timeline."""


@dataclass(frozen=True)
class Appearance:
    """The person in one camera, on a timeline. The camera is empty and the times are NaN where they are unknown."""

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


class Timelines:
    """Timelines of searches, and the travel times that they teach.

    Args:
        database: where answers are stored.
        library: the archives.
        searches: whose hits they are.
    """

    def __init__(self, database: Database, library: Library, searches: Searches) -> None:
        self._database, self._library, self._searches = database, library, searches

    def draw(self, actor: Actor, search: str) -> tuple[list[Appearance], list[Way]]:
        """Confirmed and proposed appearances in the order of time, and the ways between the confirmed ones."""
        shown = [
            Appearance(f.id, f.seen.camera, f.seen.begin_s, f.seen.end_s, True, f.score)
            for f in self._searches.confirmed(actor, search)
        ]
        said, there = self._searches.answers(search), {one.id for one in shown}
        for one in self._searches.hits(actor, search, limit=TOP):
            if len(shown) - len(there) >= PROPOSED:
                break
            if one.id not in said:
                shown.append(Appearance(one.id, one.seen.camera, one.seen.begin_s, one.seen.end_s, False, one.score))
        listed = {one.id for one in shown}
        for public in self._linked(there):
            if public not in listed and public not in said and self._searches.may_see(actor, public):
                seen = self._library.glance(public)
                shown.append(Appearance(public, seen.camera, seen.begin_s, seen.end_s, False, None))
        shown.sort(key=lambda one: (np.isnan(one.begin_s), one.begin_s, one.id))
        return shown, self._ways([one for one in shown if one.confirmed and one.begin_s >= CLOCK_FROM_S])

    def _linked(self, publics: set[str]) -> list[str]:
        """Tracklets that the archives' own proposals link to these."""
        found = []
        for name, archive in self._library.archives.items():
            own = {split_public_id(p)[1] for p in publics if split_public_id(p)[0] == name}
            if own:
                for link in read_links(archive):
                    if link.decision != "rejected" and (link.a in own) != (link.b in own):
                        other = link.b if link.a in own else link.a
                        found.append(public_id(name, other))
        return [public for public in dict.fromkeys(found) if public in self._library.columns.place]

    def _ways(self, confirmed: Sequence[Appearance]) -> list[Way]:
        learnt = self.learn_ways()
        return [
            Way(a.id, b.id, b.begin_s - a.end_s, learnt.get(frozenset((a.camera, b.camera))))
            for a, b in pairwise(confirmed)
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
            seen = [public for public in seen if known.archive_id(public)]
            seen.sort(key=lambda public: known.begins[known.place[public]])
            for a, b in pairwise(seen):
                first, second = known.archive_id(a), known.archive_id(b)
                if first and second and first[0] == second[0]:
                    pairs.setdefault(first[0], {})[frozenset((first[1], second[1]))] = "confirmed"
        for name, decided in pairs.items():
            result |= learn_travel(self._library.archives[name], dict(decided))
        return result
