"""What the pages share: who looks at them, whose form it is, fields that are read."""

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import RedirectResponse

from osnet.errors import DataError
from osnet.service.core import Service
from osnet.service.roles import AccessError, Actor
from osnet.service.web import check_csrf, who

Csrf = Annotated[str, Form(max_length=100)]
Field = Annotated[str, Form(max_length=2000)]
Fields = Annotated[list[str], Form()]


def enter(request: Request, capability: str = "view") -> Actor:
    """Who looks at a page, if they may."""
    actor = who(request)
    if not actor.may(capability):
        raise AccessError(f"your role ({actor.kind}) does not include {capability!r}")
    return actor


def submit(request: Request, csrf: str, capability: str) -> Actor:
    """Who sends a form, if they may and the form is ours."""
    actor = enter(request, capability)
    if actor.csrf is None:
        raise AccessError("forms are for sessions; programs use /api/v1")
    check_csrf(actor, csrf)
    return actor


def go(target: str) -> RedirectResponse:
    """On to another page of ours."""
    return RedirectResponse(target, 303)


def read_number(text: str, name: str) -> float:
    """A number in a field. Raises DataError for anything else, and for what is out of range."""
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{name} {text[:40]!r} is no number") from error
    if not abs(value) < 1e12:
        raise DataError(f"{name} {text[:40]!r} is out of range")
    return value


def seen_cameras(service: Service, actor: Actor) -> list[str]:
    """The cameras of an account's role."""
    return [camera for camera in service.library.cameras() if actor.sees(camera)]
