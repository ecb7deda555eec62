"""What every request passes: host names, sizes, origins, headers of the answer, counts. Plain ASGI."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request

from osnet.service.database import Database, StateError
from osnet.service.web import answer_error

log = logging.getLogger("osnet.service")

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE = ("GET", "HEAD", "OPTIONS")
BODY_TIMEOUT_S = 120.0
MAX_KEPT = 1 << 20
"""Larger answers are not kept for idempotency keys."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Metrics:
    """Counts in Prometheus' format. No name of a person, a camera's user or a case is a label."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "osnet_http_requests_total", "Requests by method and status", ["method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "osnet_http_request_seconds",
            "Time from request to the whole answer",
            buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
            registry=self.registry,
        )
        self.running = Gauge("osnet_http_requests_running", "Requests in work", registry=self.registry)
        self.tracklets = Gauge("osnet_tracklets", "Tracklets that can be searched", registry=self.registry)
        self.free = Gauge("osnet_state_free_bytes", "Space left on the disk of the state", registry=self.registry)
        self.ready = Gauge("osnet_ready", "1 if /readyz says so", registry=self.registry)
        self.frames = Gauge(
            "osnet_source_frames", "Frames of live sources", ["camera", "outcome"], registry=self.registry
        )


class Guard:
    """The outermost layer.

    Args:
        app: what is inside.
        hosts: host names that requests may be for; others are refused, against DNS rebinding.
        max_bytes: of a request's body.
        tls: the service is behind HTTPS.
        metrics: is told of each request.
    """

    def __init__(self, app: App, hosts: frozenset[str], max_bytes: int, tls: bool, metrics: Metrics) -> None:
        self._app, self._hosts, self._max_bytes, self._tls, self._metrics = app, hosts, max_bytes, tls, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500
        head = scope["method"] == "HEAD"  # probes ask so; answered as GET, without the body
        api = scope["path"].startswith("/api/")

        failure: list[tuple[int, str]] = []  # what the body's reader found, whatever the code inside makes of it
        replaced = False

        async def answer(message: Message) -> None:
            nonlocal status, replaced
            if replaced:
                return
            if failure and message["type"] == "http.response.start":
                replaced = True
                await _plain(with_headers, *failure[0], api)
            else:
                await with_headers(message)

        async def with_headers(message: Message) -> None:
            nonlocal status
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name.lower() for name, _ in message["headers"]}
                extra = {**HEADERS, **({"cache-control": "no-store"} if b"cache-control" not in there else {})}
                if self._tls:
                    extra["strict-transport-security"] = "max-age=31536000"
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in extra.items())]
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        with self._metrics.running.track_inprogress():
            if (problem := self._refuse(scope["method"], headers)) is not None:
                await _plain(with_headers, *problem, api)
            else:
                try:
                    inner = {**scope, "method": "GET"} if head else scope
                    await self._app(inner, self._limited(receive, failure), answer)
                except _BodyError:
                    await _plain(with_headers, *failure[0], api)
        self._metrics.requests.labels(scope["method"] if scope["method"] in _METHODS else "other", str(status)).inc()
        self._metrics.seconds.observe(time.perf_counter() - begin)

    def _refuse(self, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if _host_of(host) not in self._hosts:
            return 421, "this service does not answer for this host name; start it with --public-name NAME"
        if method not in SAFE and "authorization" not in headers:
            origin, site = headers.get("origin"), headers.get("sec-fetch-site")
            if (origin is not None and _netloc_of(origin) != host) or site in ("cross-site", "same-site"):
                return 403, "the request comes from another site"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "the content's length is no number"
        if int(length) > self._max_bytes:
            return 413, f"more than the {self._max_bytes >> 20} MB allowed"
        return None

    def _limited(self, receive: Receive, failure: list[tuple[int, str]]) -> Receive:
        got, ends = 0, time.monotonic() + BODY_TIMEOUT_S
        whole = False

        async def limited() -> Message:
            nonlocal got, whole
            if whole:  # after the body, this waits for the client to leave
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.01, ends - time.monotonic()))
            except TimeoutError as error:
                failure.append((408, f"the request took longer than {BODY_TIMEOUT_S:.0f} s to arrive"))
                raise _BodyError from error
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if got > self._max_bytes:
                    failure.append((413, f"more than the {self._max_bytes >> 20} MB allowed"))
                    raise _BodyError
            return message

        return limited


def _masked(body: bytes, *secrets: str) -> bytes:
    """A body masked, or a masked one unmasked: XOR with SHAKE-256 of the secrets."""
    mask = hashlib.shake_256("\n".join(("answer", *secrets)).encode()).digest(len(body))
    return (int.from_bytes(body) ^ int.from_bytes(mask)).to_bytes(len(body))


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class _BodyError(Exception):
    """The body is too large or too slow."""


async def _plain(send: Send, status: int, text: str, api: bool) -> None:
    body = json.dumps({"type": "about:blank", "title": text, "status": status}).encode() if api else text.encode()
    kind = b"application/problem+json" if api else b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _netloc_of(origin: str) -> str | None:
    """Host and port of an origin; None if it cannot be read."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _host_of(host: str) -> str:
    """``localhost:8750`` -> ``localhost``; ``[::1]:8750`` -> ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


class Idempotency:
    """Writes of the API with an ``Idempotency-Key`` happen once: the same request again gets the answer of the first.

    An answer may hold the secret of a token. So it is kept masked by bytes that follow from the key and from what the
    client identifies itself with; the state holds neither.

    Args:
        app: what is inside.
        database: where answers are kept, for a day.
        clock: gives Unix time.
    """

    def __init__(self, app: App, database: Database, clock: Callable[[], float]) -> None:
        self._app, self._database, self._clock = app, database, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        headers = {n.decode("latin-1").lower(): v.decode("latin-1") for n, v in scope.get("headers", ())}
        key = headers.get("idempotency-key")
        if scope["type"] != "http" or key is None or scope["method"] in SAFE or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        if not 8 <= len(key) <= 200 or not key.isprintable():
            await _plain(send, 400, "an Idempotency-Key has 8 to 200 printable characters", True)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        who = headers.get("authorization", "") + headers.get("cookie", "")
        digest = hashlib.sha256(f"{who}\n{key}".encode()).hexdigest()
        boundary = headers.get("content-type", "").partition("boundary=")[2].strip('"').encode()
        steady = body.replace(boundary, b"") if boundary else body  # a client's boundary differs from try to try
        request = hashlib.sha256(
            f"{scope['method']} {scope['path']}?{scope['query_string'].decode('latin-1')}\n".encode() + steady
        ).hexdigest()
        try:
            there = await asyncio.to_thread(self._begin, digest, request)
        except (StateError, OSError) as error:
            await answer_error(Request(scope), error)(scope, receive, send)  # type: ignore[arg-type]
            return
        if there is not None:
            if there["request"] != request:
                await _plain(send, 422, "this Idempotency-Key was used for another request", True)
            elif there["status"] is None:
                await _plain(send, 409, "the first request with this Idempotency-Key is still in work", True)
            else:
                await send(
                    {
                        "type": "http.response.start",
                        "status": there["status"],
                        "headers": [(b"content-type", there["content_type"].encode()), (b"idempotent-replay", b"true")],
                    }
                )
                await send({"type": "http.response.body", "body": _masked(bytes(there["body"]), who, key, request)})
            return
        await self._first(scope, receive, body, digest, send, lambda kept: _masked(kept, who, key, request))

    async def _first(
        self, scope: Scope, receive: Receive, body: bytes, digest: str, send: Send, mask: Callable[[bytes], bytes]
    ) -> None:
        status, kind, answer = 500, "", b""
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # tells when the client leaves
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def keep(message: Message) -> None:
            nonlocal status, kind, answer
            if message["type"] == "http.response.start":
                status = message["status"]
                kind = dict(message["headers"]).get(b"content-type", b"").decode("latin-1")
            elif len(answer) <= MAX_KEPT:
                answer += message.get("body", b"")
            await send(message)

        try:
            await self._app(scope, replay, keep)
        finally:
            final = status < 500 and status not in (401, 403, 409, 429) and len(answer) <= MAX_KEPT
            final = final and (kind == "" or "json" in kind)  # no pictures of people in the state
            try:
                await asyncio.to_thread(self._end, digest, (status, kind, mask(answer)) if final else None)
            except (StateError, OSError) as error:  # the client has its answer; the key is free in ten minutes
                log.warning("the answer to an Idempotency-Key cannot be kept: %s", error)

    def _begin(self, digest: str, request: str) -> dict[str, Any] | None:
        now = self._clock()
        with self._database.write() as tx:
            tx.run(
                "DELETE FROM idempotency WHERE created_s < ? OR (status IS NULL AND created_s < ?)",
                now - 86400,
                now - 600,
            )
            row = tx.one("SELECT * FROM idempotency WHERE digest = ?", digest)
            if row is None:
                tx.run("INSERT INTO idempotency VALUES (?, ?, NULL, NULL, NULL, ?)", digest, request, now)
            return row

    def _end(self, digest: str, answer: tuple[int, str, bytes] | None) -> None:
        with self._database.write() as tx:
            if answer is None:
                tx.run("DELETE FROM idempotency WHERE digest = ?", digest)
            else:
                tx.run(
                    "UPDATE idempotency SET status = ?, content_type = ?, body = ? WHERE digest = ?", *answer, digest
                )
