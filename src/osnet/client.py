"""A client for the service's API, with the library's own types.

>>> with Client("http://127.0.0.1:8750", token="osnet_...") as client:
...     search = client.search(["photo.jpg"], reason="theft on 28 November", where=Where(cameras=frozenset({"gate"})))
...     for hit in search.hits:
...         print(hit.rank, hit.score, hit.item.camera, hit.item.source)
...     client.answer(search.id, search.hits[0].item.source, "yes")

``hit.item.source`` is the id at the service of a tracklet, or of a gallery's crop, whose own source is in
``Search.details``. Needs ``pip install osnet[client]``.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

from osnet.errors import DataError, OsnetError, require_extra
from osnet.files import written_aside
from osnet.gallery import Where
from osnet.types import Hit, Item

Answer = Literal["yes", "no", "undone"]
MAX_PICTURES = 16
"""So many photos or tracklets make one search; the service refuses more."""


class ServiceError(OsnetError, RuntimeError):
    """The service refused, cannot do it, or cannot be reached.

    ``status`` is HTTP's, or 0 without an answer. ``code`` is the service's word for the kind, ``http`` for answers that
    are not its own, and ``connection`` without an answer.
    """

    def __init__(self, status: int, code: str, title: str) -> None:
        super().__init__(f"{title} ({code}, HTTP {status})" if status else title)
        self.status, self.code, self.title = status, code, title


@dataclass(frozen=True)
class Search:
    """A search that the service keeps."""

    id: str
    hits: list[Hit]
    """The first page, best first; ``Client.hits`` gives all."""
    details: list[dict[str, Any]] = field(repr=False, default_factory=list)
    """For each hit what else the service says: begin, end, meaning of the score, answer."""


class Client:
    """A service's API.

    A request whose connection breaks is sent once more. Writes then carry the same idempotency key, so that they happen
    once.

    Args:
        address: of the service, such as ``https://osnet.example``.
        token: from its page Accounts, or ``POST /api/v1/tokens``.
        timeout_s: for each request.
        transport: an ``httpx`` transport, for tests.

    Raises:
        DataError: the address or the token cannot be one.
        MissingExtraError: httpx is not installed.

    Every method raises ServiceError if the service refuses, or cannot be reached.
    """

    def __init__(self, address: str, token: str, timeout_s: float = 60.0, transport: Any = None) -> None:
        self._httpx = require_extra("httpx", "client")
        self._address = address
        if not address.startswith(("http://", "https://")):
            raise DataError(f"address {address!r} must begin with http:// or https://")
        if not (token.isascii() and token.isprintable()):
            raise DataError("the token has a line break or a character other than ASCII; copy it again")
        try:
            self._http: Any = self._httpx.Client(
                base_url=address.rstrip("/") + "/api/v1",
                headers={"Authorization": f"Bearer {token}"},
                timeout=timeout_s,
                transport=transport,
            )
        except self._httpx.InvalidURL as error:
            raise DataError(f"address {address!r} is not a URL: {error}") from error

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def cameras(self) -> list[str]:
        """Names of the cameras that the token's account may see."""
        return [row["camera"] for row in self._read("GET", "/cameras")]

    def search(
        self,
        photos: Sequence[str | Path | bytes] = (),
        *,
        boxes: Sequence[Sequence[float] | None] | None = None,
        tracklets: Sequence[str] = (),
        where: Where | None = None,
        weekdays: Sequence[int] | None = None,
        hours: tuple[float, float] | None = None,
        reason: str = "",
        case: str | None = None,
    ) -> Search:
        """Search by photos of one person, by tracklets, or by a description.

        Args:
            photos: files, or their bytes; several count as one.
            boxes: for each photo the person's box (left, top, right, bottom in pixels), or None.
            tracklets: ids at the service, instead of photos.
            where: its cameras and times, and without photos the attributes ``having`` and ``lacking``.
            weekdays: 0 is Monday, in the site's time zone.
            hours: from and to, in [0, 24]; from 22 to 6 is the night.
            reason: why; some sites need one.
            case: id of a case that the search goes into.

        Raises:
            DataError: something given cannot be used in this kind of search.
            ServiceError: the service refused.
        """
        for name, several in (("photos", photos), ("tracklets", tracklets)):
            if isinstance(several, str | bytes):
                raise DataError(f"{name} must be a list, not {type(several).__name__}: give [{name[:-1]}]")
        where = where or Where()
        for name in ("after_s", "before_s"):
            if not math.isfinite(getattr(where, name) or 0.0):
                raise DataError(f"{name} {getattr(where, name)}: the service takes finite times; leave it out")
        unused = [
            name for name in ("identities", "source", "sources", "min_probability") if getattr(where, name) is not None
        ]
        if photos:
            others = {"tracklets": tracklets, "having": where.having, "lacking": where.lacking}
            unused += [name for name, value in others.items() if value]
        elif boxes is not None:
            unused.append("boxes")
        if unused:
            kind = "photos" if photos else "tracklets or a description"
            raise DataError(f"{', '.join(unused)}: the service cannot use this in a search by {kind}; leave it out")
        if (given_pictures := len(photos) + len(tracklets)) > MAX_PICTURES:
            raise DataError(f"{given_pictures} pictures; at most {MAX_PICTURES} make one search")
        if boxes is not None and len(boxes) != len(photos):
            raise DataError(f"{len(boxes)} boxes for {len(photos)} photos; give one box, or None, for each photo")
        filters = {
            "cameras": None if where.cameras is None else sorted(where.cameras),
            "after_s": where.after_s,
            "before_s": where.before_s,
            "weekdays": None if weekdays is None else [index(day) for day in weekdays],
            "from_hour": hours[0] if hours else None,
            "to_hour": hours[1] if hours else None,
        }
        if photos:
            given_boxes = (
                None if boxes is None else [None if box is None else [float(side) for side in box] for box in boxes]
            )
            options = {"boxes": given_boxes, "filters": filters, "reason": reason}
            files = [
                ("photos", ("photo", p) if isinstance(p, bytes) else (Path(p).name, Path(p).read_bytes()))
                for p in photos
            ]
            data = {"options": json.dumps({**options, "case": case})}
            found = self._read("POST", "/searches/photos", files=files, data=data)
        else:
            given = {
                "tracklets": list(tracklets),
                "having": sorted(where.having),
                "lacking": sorted(where.lacking),
                "filters": filters,
                "reason": reason,
                "case": case,
            }
            found = self._read("POST", "/searches", json=given)
        return Search(found["id"], [_hit(row) for row in found["hits"]], found["hits"])

    def hits(self, search: str) -> Iterator[Hit]:
        """All hits of a search, in their present order. All are read first: an answer changes the order of the rest."""
        found: list[Hit] = []
        cursor: str | None = None
        while True:
            page = self._read("GET", f"/searches/{search}/hits", params={"cursor": cursor} if cursor else {})
            found += map(_hit, page["hits"])
            cursor = page["next"]
            if cursor is None:
                return iter(found)

    def answer(self, search: str, tracklet: str, answer: Answer) -> list[Hit]:
        """Say yes or no of a hit, or undo it. Returns the first page in its new order."""
        given = {"tracklet": tracklet, "answer": answer}
        return [_hit(row) for row in self._read("POST", f"/searches/{search}/answers", json=given)["hits"]]

    def timeline(self, search: str) -> dict[str, Any]:
        """``appearances`` and ``ways``, as the API gives them."""
        return dict(self._read("GET", f"/searches/{search}/timeline"))

    def save_clip(self, tracklet: str, path: str | Path, reason: str = "") -> None:
        """Write the passage of a tracklet, with the box drawn, as MP4."""
        why = " ".join(reason.split()).encode()  # a header has no line breaks, and other letters as UTF-8
        content = self._ask("GET", f"/tracklets/{tracklet}/clip.mp4", headers={"X-Reason": why}).content
        with written_aside(path) as aside:
            aside.write_bytes(content)

    def create_case(self, title: str, reason: str = "", notes: str = "") -> str:
        """Begin a case; its id."""
        return str(self._read("POST", "/cases", json={"title": title, "reason": reason, "notes": notes})["id"])

    def export_case(self, case: str, path: str | Path, reason: str = "") -> str:
        """Write a case as a ZIP; its SHA-256."""
        answer = self._ask("POST", f"/cases/{case}/export", json={"reason": reason})
        with written_aside(path) as aside:
            aside.write_bytes(answer.content)
        return str(answer.headers["X-SHA256"])

    def preview_erasure(self, tracklets: Sequence[str], searches: Sequence[str] = ()) -> dict[str, Any]:
        """What an erasure would remove; its ``digest`` confirms it."""
        given = {"tracklets": list(tracklets), "searches": list(searches)}
        return dict(self._read("POST", "/erasures/preview", json=given))

    def erase(self, tracklets: Sequence[str], searches: Sequence[str], digest: str, reason: str) -> str:
        """Erase what was previewed; the id of the job."""
        given = {"tracklets": list(tracklets), "searches": list(searches), "digest": digest, "reason": reason}
        return str(self._read("POST", "/erasures", json=given)["job"])

    def job(self, job: str) -> dict[str, Any]:
        """A job: its ``state``, and its ``report`` when it is done."""
        return dict(self._read("GET", f"/jobs/{job}"))

    def _read(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of an answer."""
        answer = self._ask(method, path, **more)
        try:
            return answer.json()
        except ValueError:
            raise ServiceError(
                answer.status_code, "http", f"{self._address} answered something else than JSON"
            ) from None

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        """An answer of the API."""
        httpx = self._httpx
        if method != "GET":
            more["headers"] = {**more.get("headers", {}), "Idempotency-Key": token_hex(16)}
        try:
            try:
                answer = self._http.request(method, path, **more)
            except (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError):
                answer = self._http.request(method, path, **more)  # with the same key
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            what = f"{self._address} cannot be asked: {type(error).__name__}: {error}"
            raise ServiceError(0, "connection", what) from error
        if not answer.is_success:
            try:
                problem = answer.json()
                raise ServiceError(answer.status_code, problem.get("code", "http"), problem["title"])
            except (ValueError, KeyError, TypeError, AttributeError):
                said = answer.headers.get("location") or answer.text[:200]
                raise ServiceError(answer.status_code, "http", f"{self._address} answered: {said}") from None
        if answer.headers.get("content-type", "").startswith("text/html"):
            what = f"{self._address} answered a web page, so it is not the service's address, or something is before it"
            raise ServiceError(answer.status_code, "http", what)
        return answer


def _hit(row: dict[str, Any]) -> Hit:
    item = Item(row["tracklet"], row["identity"], row["camera"] or None, row["begin_s"])
    return Hit(row["place"], row["score"], item)
