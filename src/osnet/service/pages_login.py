"""The pages for logging in and out, and for the first administrator."""

import hmac
import secrets
from typing import Annotated

from fastapi import APIRouter, Cookie, Query, Request
from fastapi.responses import HTMLResponse, Response

from osnet.errors import DataError
from osnet.service.forms import Csrf, Field, go, submit
from osnet.service.roles import AccessError
from osnet.service.web import COOKIE, LOGIN_COOKIE, ServiceDep, render, safe_next, service_of

router = APIRouter(include_in_schema=False)


@router.get("/login")
def login_page(request: Request, next: Annotated[str, Query(max_length=2000)] = "/") -> HTMLResponse:
    """The form. A value in a cookie must come back in a field, so that no other site can log a user in."""
    token = secrets.token_urlsafe(24)
    answer = render(request, "login.html", title="Log in", next=safe_next(next), token=token, error="")
    _set_cookie(request, answer, LOGIN_COOKIE, token, 3600)
    return answer


@router.post("/login")
def log_in(
    request: Request,
    service: ServiceDep,
    name: Field,
    password: Field,
    token: Field,
    next: Field = "/",
    cookie: Annotated[str | None, Cookie(alias=LOGIN_COOKIE)] = None,
) -> Response:
    """Check the password. The session is always a new one."""
    if cookie is None or not hmac.compare_digest(cookie.encode(), token.encode()):
        raise AccessError("the form is too old, or this browser keeps no cookies; open /login again")
    address = request.client.host if request.client else "unknown"
    try:
        secret = service.accounts.log_in(name, password, address)
    except AccessError as error:
        retry_s = getattr(error, "retry_s", None)
        answer = render(
            request,
            "login.html",
            None,
            429 if retry_s else 401,
            title="Log in",
            next=safe_next(next),
            token=token,
            error=str(error),
        )
        if retry_s:
            answer.headers["Retry-After"] = str(max(1, round(retry_s)))
        return answer
    went = go(safe_next(next))
    _set_cookie(request, went, COOKIE, secret, None)
    went.delete_cookie(LOGIN_COOKIE)
    return went


def _set_cookie(request: Request, answer: Response, name: str, value: str, age_s: int | None) -> None:
    tls = service_of(request).options.tls
    answer.set_cookie(name, value, max_age=age_s, httponly=True, samesite="strict", secure=tls, path="/")


@router.post("/logout")
def log_out(request: Request, service: ServiceDep, csrf: Csrf) -> Response:
    """End the session."""
    actor = submit(request, csrf, "view")
    service.accounts.log_out(actor)
    went = go("/login")
    went.delete_cookie(COOKIE)
    return went


@router.get("/setup")
def setup_page(request: Request, service: ServiceDep, key: Annotated[str, Query(max_length=100)]) -> HTMLResponse:
    """The form for the first administrator."""
    if not service.accounts.setup_is_open(key):
        raise AccessError("this link was used, or has expired; start the service again for a new one")
    return render(request, "setup.html", title="First administrator", key=key, error="")


@router.post("/setup")
def set_up(request: Request, service: ServiceDep, key: Field, name: Field, password: Field, again: Field) -> Response:
    """Make the first administrator and log in."""
    try:
        if password != again:
            raise DataError("the two passwords differ")
        service.accounts.set_up(key, name, password)
    except ValueError as error:
        return render(request, "setup.html", None, 422, title="First administrator", key=key, error=str(error))
    went = go("/")
    address = request.client.host if request.client else "unknown"
    _set_cookie(request, went, COOKIE, service.accounts.log_in(name, password, address), None)
    return went
