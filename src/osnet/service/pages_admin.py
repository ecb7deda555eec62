"""The pages for erasing and for running the service: accounts, audit log, retention, live sources."""

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from osnet.errors import DataError
from osnet.service import audit
from osnet.service.api_admin import start_erasure
from osnet.service.core import Service
from osnet.service.forms import Csrf, Field, Fields, enter, go, read_number, seen_cameras, submit
from osnet.service.retention import SETTINGS
from osnet.service.roles import KINDS, Actor
from osnet.service.web import (
    ServiceDep,
    decode_cursor,
    encode_cursor,
    render,
)

router = APIRouter(include_in_schema=False)


# Erasing


@router.get("/erase")
def erase_page(
    request: Request, service: ServiceDep, search: Annotated[str, Query(max_length=100)] = ""
) -> HTMLResponse:
    """Choose what is erased: the hits of a search."""
    actor = enter(request, "erase")
    hits = service.searches.hits(actor, search, limit=100) if search else []
    if hits:
        service.log_view(actor, "view.hits", {"search": search, "tracklets": [hit.id for hit in hits]}, "erasure")
    return render(
        request,
        "erase.html",
        actor,
        title="Erase a person",
        search=search,
        hits=hits,
        plan=None,
        sign=lambda public: service.sign_view(actor, public),
        recent=service.searches.list_own(actor, limit=20),
    )


@router.post("/erase/preview")
def preview_erasure(
    request: Request, service: ServiceDep, csrf: Csrf, tracklet: Fields | None = None, search: Field = ""
) -> HTMLResponse:
    """What would go."""
    actor = submit(request, csrf, "erase")
    plan = service.erasure.plan(actor, tracklet or [], [search] if search else [])
    return render(request, "erase.html", actor, title="Erase a person", search=search, hits=[], plan=plan, recent=[])


@router.post("/erase")
def erase(
    request: Request,
    service: ServiceDep,
    csrf: Csrf,
    digest: Field,
    reason: Field,
    tracklet: Fields | None = None,
    search: Fields | None = None,
) -> Response:
    """Erase what was seen."""
    actor = submit(request, csrf, "erase")
    return go(f"/jobs/{start_erasure(service, actor, tracklet or [], search or [], digest, reason)}")


@router.get("/jobs/{job}")
def job_page(request: Request, service: ServiceDep, job: str) -> HTMLResponse:
    """A job; the page asks again until it is done."""
    actor = enter(request)
    row = service.jobs.get(actor, job)
    name = "_job.html" if "hx-request" in request.headers else "job.html"
    return render(request, name, actor, title=f"Job: {row['kind']}", job=row)


# Administration


@router.get("/accounts")
def accounts_page(request: Request, service: ServiceDep) -> HTMLResponse:
    """Accounts, roles, tokens."""
    actor = enter(request)
    return _accounts(request, service, actor)


def _accounts(request: Request, service: Service, actor: Actor, token: str = "") -> HTMLResponse:
    admin = actor.may("admin")
    return render(
        request,
        "accounts.html",
        actor,
        title="Accounts",
        accounts=service.accounts.list_accounts() if admin else [],
        roles=service.accounts.list_roles() if admin else [],
        tokens=service.accounts.list_tokens(actor),
        kinds=list(KINDS),
        cameras=seen_cameras(service, actor),
        token=token,
        scopes=sorted(actor.capabilities),
    )


@router.post("/accounts")
def add_account(
    request: Request, service: ServiceDep, csrf: Csrf, name: Field, password: Field, role: Field
) -> Response:
    """Make an account."""
    actor = submit(request, csrf, "admin")
    service.accounts.add(name, password, role, actor.name)
    return go("/accounts")


@router.post("/accounts/{account}")
def change_account(
    request: Request, service: ServiceDep, account: str, csrf: Csrf, role: Field = "", disabled: Field = ""
) -> Response:
    """Change an account's role, or disable or enable it."""
    actor = submit(request, csrf, "admin")
    service.accounts.change(account, actor, role=role or None, disabled=None if not disabled else disabled == "yes")
    return go("/accounts")


@router.post("/password")
def change_password(
    request: Request, service: ServiceDep, csrf: Csrf, old: Field, new: Field, again: Field
) -> Response:
    """Change one's own password, then ask for a new login."""
    actor = submit(request, csrf, "view")
    if new != again:
        raise DataError("the two new passwords differ")
    service.accounts.change_own_password(actor, old, new, request.client.host if request.client else "unknown")
    return go("/login")


@router.post("/roles")
def set_role(
    request: Request, service: ServiceDep, csrf: Csrf, name: Field, kind: Field, camera: Fields | None = None
) -> Response:
    """Make or change a role."""
    service.accounts.set_role(name, kind, camera, submit(request, csrf, "admin"))
    return go("/accounts")


@router.post("/tokens")
def make_token(
    request: Request, service: ServiceDep, csrf: Csrf, name: Field, days: Field, scope: Fields
) -> HTMLResponse:
    """Make a token; the page shows it once."""
    actor = submit(request, csrf, "view")
    _, token = service.accounts.make_token(actor, name, scope, int(read_number(days, "days")))
    return _accounts(request, service, actor, token)


@router.post("/tokens/{token_id}/revoke")
def revoke_token(request: Request, service: ServiceDep, token_id: str, csrf: Csrf) -> Response:
    """End a token."""
    service.accounts.revoke_token(token_id, submit(request, csrf, "view"))
    return go("/accounts")


@router.get("/audit")
def audit_page(
    request: Request,
    service: ServiceDep,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    account: Annotated[str, Query(max_length=200)] = "",
    check: bool = False,
) -> HTMLResponse:
    """The audit log."""
    actor = enter(request, "admin")
    entries = audit.list_entries(service.database, int(decode_cursor(cursor, "before", 2**52)), 50, account)
    return render(
        request,
        "audit.html",
        actor,
        title="Audit",
        entries=entries,
        account=account,
        more=encode_cursor(before=entries[-1].seq) if len(entries) == 50 else None,
        found=audit.verify(service.database) if check else None,
        what=lambda value: json.dumps(value, ensure_ascii=False),
    )


@router.get("/retention")
def retention_page(request: Request, service: ServiceDep) -> HTMLResponse:
    """How long things are kept."""
    actor = enter(request, "admin")
    return render(
        request,
        "retention.html",
        actor,
        title="Retention",
        days=service.retention.days(),
        due=service.retention.old(),
        settings=service.settings.all(),
        about=SETTINGS,
        jobs=service.jobs.list_jobs(20),
        fault=service.retention.clock_fault(),
        now=service.clock(),
    )


@router.post("/retention")
def change_retention(
    request: Request,
    service: ServiceDep,
    csrf: Csrf,
    days: Field = "",
    camera: Field = "",
    setting: Field = "",
    value: Field = "",
) -> Response:
    """A camera's days, or a setting."""
    actor = submit(request, csrf, "admin")
    if camera:
        service.retention.set_days(actor, camera, int(read_number(days, "days")))
    if setting:
        service.settings.set(actor, setting, int(read_number(value, setting)))
    return go("/retention")


@router.post("/retention/run")
def run_retention(request: Request, service: ServiceDep, csrf: Csrf) -> Response:
    """Delete what is due, now."""
    actor = submit(request, csrf, "admin")
    return go(f"/jobs/{service.jobs.add('retention', actor.name, '', {})}")


@router.post("/retention/clock")
def confirm_clock(request: Request, service: ServiceDep, csrf: Csrf) -> Response:
    """The clock is right."""
    service.retention.confirm_clock(submit(request, csrf, "admin"))
    return go("/retention")


@router.get("/live")
def live_page(request: Request, service: ServiceDep) -> HTMLResponse:
    """Live sources and the watch list."""
    actor = enter(request, "search")
    return render(
        request,
        "live.html",
        actor,
        title="Live",
        sources=service.sources.list_sources(actor),
        archives=list(service.library.archives),
        watch_on=service.settings.get("watch_list"),
        entries=service.watch.list_entries() if actor.may("admin") else [],
        secret="",
        recent=service.searches.list_own(actor, limit=20),
    )


@router.post("/sources")
def add_source(
    request: Request, service: ServiceDep, csrf: Csrf, camera: Field, address: Field, archive: Field = ""
) -> Response:
    """Index a stream."""
    service.sources.add(submit(request, csrf, "admin"), camera, address, archive or None)
    return go("/live")


@router.post("/sources/{source}/remove")
def remove_source(request: Request, service: ServiceDep, source: str, csrf: Csrf) -> Response:
    """End a source."""
    service.sources.remove(submit(request, csrf, "admin"), source)
    return go("/live")


@router.post("/watch")
def add_watch(
    request: Request,
    service: ServiceDep,
    csrf: Csrf,
    search: Field,
    threshold: Field,
    days: Field,
    webhook: Field,
    reason: Field,
) -> HTMLResponse:
    """Watch for a person; the page shows the secret once."""
    actor = submit(request, csrf, "admin")
    limit = read_number(threshold, "threshold")
    expected = service.watch.expect(actor, search, limit)
    _, secret = service.watch.add(actor, search, limit, int(read_number(days, "days")), webhook, reason)
    return render(
        request,
        "live.html",
        actor,
        title="Live",
        sources=service.sources.list_sources(actor),
        expected=expected,
        archives=list(service.library.archives),
        watch_on=1,
        entries=service.watch.list_entries(),
        secret=secret,
        recent=service.searches.list_own(actor, limit=20),
    )


@router.post("/watch/{entry}/remove")
def remove_watch(request: Request, service: ServiceDep, entry: str, csrf: Csrf) -> Response:
    """End an entry of the watch list."""
    service.watch.remove(submit(request, csrf, "admin"), entry)
    return go("/live")
