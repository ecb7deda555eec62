"""What pages and API share: who asks, errors as pages or problem+json, cursors."""

import base64
import errno
import hmac
import json
import logging
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from markupsafe import Markup
from pydantic import AfterValidator
from starlette.exceptions import HTTPException as StarletteError

from osnet.errors import DataError, GalleryError, ImageError, MissingExtraError, ModelError, OsnetError, OutputError
from osnet.service.core import ReasonNeededError, Service
from osnet.service.database import StateBusyError, StateError, StateFullError
from osnet.service.roles import AccessError, AccountError, Actor, LoginError, TooManyFailuresError
from osnet.service.searches import MissingError
from osnet.video.protocols import FootageError

log = logging.getLogger("osnet.service")
COOKIE, LOGIN_COOKIE = "osnet_session", "osnet_login"


def _from_utf8(text: str) -> str:
    """The text of a header, which Starlette reads as Latin-1. What is not UTF-8 stays as it is."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


Reason = Annotated[
    str, Header(alias="X-Reason", max_length=1000, description="Why this is asked for."), AfterValidator(_from_utf8)
]


class NotLoggedInError(AccessError):
    """No session and no token, or one that has ended."""


def service_of(request: Request) -> Service:
    """The service that answers."""
    service: Service = request.app.state.service
    return service


async def _service(request: Request) -> Service:
    """As ``service_of``; being a coroutine, it costs no thread."""
    return service_of(request)


ServiceDep = Annotated[Service, Depends(_service)]


def who(request: Request) -> Actor:
    """Who asks, by a bearer token or by the cookie of a session.

    A write by cookie to the API needs the session's token in ``X-CSRF-Token``; a page's form carries it in a
    field, which the page checks.

    Raises:
        NotLoggedInError: neither is valid.
        AccessError: the CSRF token is missing or wrong.
    """
    service = service_of(request)
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        actor = service.accounts.by_token(token.strip()) if scheme.lower() == "bearer" else None
        if actor is None:
            raise NotLoggedInError("the token is wrong, was revoked, or has ended")
        return actor
    secret = request.cookies.get(COOKIE)
    actor = service.accounts.by_session(secret) if secret else None
    if actor is None:
        raise NotLoggedInError("log in, or send a token: Authorization: Bearer osnet_...")
    if request.method not in ("GET", "HEAD") and request.url.path.startswith("/api/"):
        check_csrf(actor, request.headers.get("x-csrf-token", ""))
    return actor


def check_csrf(actor: Actor, token: str) -> None:
    """Raise AccessError unless it is the session's token."""
    if actor.csrf is not None and not hmac.compare_digest(actor.csrf.encode(), token.encode()):
        raise AccessError("the form's token is missing or old; load the page again")


def allowed(capability: str) -> Callable[[Request], Actor]:
    """A dependency: who asks, if they may do that."""

    def check(request: Request) -> Actor:
        actor = who(request)
        if not actor.may(capability):
            raise AccessError(f"your role ({actor.kind}) or token does not include {capability!r}")
        return actor

    return check


Viewer = Annotated[Actor, Depends(allowed("view"))]
Searcher = Annotated[Actor, Depends(allowed("search"))]
Decider = Annotated[Actor, Depends(allowed("decide"))]
Exporter = Annotated[Actor, Depends(allowed("export"))]
Eraser = Annotated[Actor, Depends(allowed("erase"))]
Administrator = Annotated[Actor, Depends(allowed("admin"))]
Anybody = Annotated[Actor, Depends(who)]


def describe_error(error: Exception) -> tuple[int, str, str, dict[str, str]]:
    """Status, a short code, what to say, and headers."""
    headers: dict[str, str] = {}
    if isinstance(error, TooManyFailuresError):
        return 429, "too-many-failures", str(error), {"Retry-After": str(max(1, round(error.retry_s)))}
    for kind, status, code in (
        (NotLoggedInError, 401, "not-logged-in"),
        (LoginError, 401, "login"),
        (AccessError, 403, "not-allowed"),
        (MissingError, 404, "missing"),
        (StateBusyError, 503, "busy"),
        (StateFullError, 507, "disk-full"),
        (StateError, 503, "state"),
        (ReasonNeededError, 422, "reason-needed"),
        (AccountError, 422, "account"),
        (ImageError, 422, "image"),
        (FootageError, 404, "footage"),
        (DataError, 422, "value"),
        (MissingExtraError, 501, "not-installed"),
        (ModelError, 422, "network"),
    ):
        if isinstance(error, kind):
            if status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            if status == 503:
                headers["Retry-After"] = "2"
            return status, code, str(error), headers
    if isinstance(error, OSError) and (_errno(error) == errno.ENOSPC):
        return 507, "disk-full", "no space is left on the disk; nothing was changed", {}
    if isinstance(error, (OutputError, GalleryError)):
        return (
            503,
            "archive",
            "an archive cannot be read or written: it may be in use, moved or damaged; see /readyz",
            {},
        )
    if isinstance(error, FileNotFoundError):
        return 503, "archive", "a file of the archive is not where it was; see /readyz", {}
    if isinstance(error, OsnetError):
        return 422, "value", str(error), {}
    if isinstance(error, RequestValidationError):
        first = error.errors()[0] if error.errors() else {}
        place = ".".join(str(part) for part in first.get("loc", ())[1:])
        return 422, "value", f"{place}: {first.get('msg', 'cannot be used')}", {}
    if isinstance(error, StarletteError):
        return error.status_code, "http", str(error.detail), dict(error.headers or {})
    return 500, "unexpected", "an unexpected error; the log of the service says more", {}


def _errno(error: BaseException | None) -> int | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__
    return None


def answer_error(request: Request, error: Exception) -> Response:
    """An error as problem+json (RFC 9457) to programs, and as a page to people."""
    status, code, text, headers = describe_error(error)
    if status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, text, exc_info=error)
    if request.url.path.startswith("/api/") or request.url.path == "/metrics":
        problem = {"type": f"/docs/errors#{code}", "title": text, "status": status, "code": code}
        return JSONResponse(problem, status, headers, media_type="application/problem+json")
    if isinstance(error, NotLoggedInError):
        if "hx-request" in request.headers:
            return Response(status_code=204, headers={"HX-Redirect": "/login"})
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        there = f"?next={quote(target)}" if request.method == "GET" and target != "/" else ""
        return RedirectResponse(f"/login{there}", 303)
    actor = _actor_or_none(request)
    page = render(request, "error.html", actor, status, title="That did not work", text=text, number=status)
    page.headers.update(headers)
    return page


def render(request: Request, name: str, actor: Actor | None = None, status: int = 200, **values: Any) -> HTMLResponse:
    """A template as a page."""
    field = Markup('<input type="hidden" name="csrf" value="{}">').format((actor and actor.csrf) or "")
    template = request.app.state.templates.get_template(name)
    return HTMLResponse(template.render(actor=actor, path=request.url.path, csrf=lambda: field, **values), status)


def _actor_or_none(request: Request) -> Actor | None:
    try:
        secret = request.cookies.get(COOKIE)
        return service_of(request).accounts.by_session(secret) if secret else None
    except OsnetError:
        return None


def safe_next(target: str) -> str:
    """A path of ours to go on to; ``/`` for anything that could be another site."""
    if not target.startswith("/") or target.startswith(("//", "/\\")) or not target.isprintable() or "\\" in target:
        return "/"
    return target


def encode_cursor(**values: Any) -> str:
    """Where the next page of a list begins, as one opaque text."""
    return base64.urlsafe_b64encode(json.dumps(values, sort_keys=True).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, name: str, default: float) -> float:
    """The number of that name in a cursor. Raises HTTPException 422 for one that is not ours."""
    if not cursor:
        return default
    try:
        value = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not -(2**53) < value < 2**53:
            raise ValueError(name)
        return value
    except (ValueError, KeyError, TypeError, UnicodeError, RecursionError) as error:
        raise HTTPException(422, "the cursor is not one that this list gave") from error
