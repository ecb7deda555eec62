"""The API for operating a service: accounts, audit, retention, erasure, jobs, sources, watch list, health."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import generate_latest

from osnet.errors import DataError
from osnet.service import audit
from osnet.service.api import Cursor, Limit
from osnet.service.core import Service
from osnet.service.middleware import Metrics
from osnet.service.retention import SETTINGS
from osnet.service.roles import AccessError
from osnet.service.schemas import (
    AccountChangeIn,
    AccountIn,
    DaysIn,
    ErasureConfirmedIn,
    ErasureIn,
    OwnPasswordIn,
    ReasonIn,
    RoleIn,
    SettingIn,
    SourceIn,
    TokenIn,
    WatchIn,
)
from osnet.service.searches import MissingError
from osnet.service.web import (
    Administrator,
    Anybody,
    Eraser,
    Searcher,
    ServiceDep,
    decode_cursor,
    encode_cursor,
    service_of,
    who,
)

router = APIRouter(prefix="/api/v1")
open_router = APIRouter()


# Accounts


@router.get("/accounts", tags=["accounts"])
def list_accounts(service: ServiceDep, _: Administrator) -> list[dict[str, Any]]:
    """All accounts."""
    return service.accounts.list_accounts()


@router.post("/accounts", status_code=201, tags=["accounts"])
def add_account(service: ServiceDep, actor: Administrator, given: AccountIn) -> dict[str, str]:
    """Make an account."""
    return {"id": service.accounts.add(given.name, given.password, given.role, actor.name, given.reason)}


@router.patch("/accounts/{account}", status_code=204, tags=["accounts"])
def change_account(service: ServiceDep, actor: Administrator, account: str, given: AccountChangeIn) -> None:
    """Another role or password, or disable it. Its sessions end."""
    service.accounts.change(
        account, actor, role=given.role, password=given.password, disabled=given.disabled, reason=given.reason
    )


@router.put("/me/password", status_code=204, tags=["accounts"])
def change_own_password(request: Request, service: ServiceDep, actor: Anybody, given: OwnPasswordIn) -> None:
    """Another password for oneself. All sessions end. A token cannot do it."""
    if actor.session is None:
        raise AccessError("a token cannot change a password; log in")
    address = request.client.host if request.client else "unknown"
    service.accounts.change_own_password(actor, given.old, given.new, address)


@router.get("/roles", tags=["accounts"])
def list_roles(service: ServiceDep, _: Administrator) -> list[dict[str, Any]]:
    """All roles with their cameras."""
    return service.accounts.list_roles()


@router.put("/roles", status_code=204, tags=["accounts"])
def set_role(service: ServiceDep, actor: Administrator, given: RoleIn) -> None:
    """Make or change a role."""
    service.accounts.set_role(given.name, given.kind, given.cameras, actor, given.reason)


@router.get("/tokens", tags=["accounts"])
def list_tokens(service: ServiceDep, actor: Anybody) -> list[dict[str, Any]]:
    """The asker's tokens, all for administrators; without secrets."""
    return service.accounts.list_tokens(actor)


@router.post("/tokens", status_code=201, tags=["accounts"])
def make_token(service: ServiceDep, actor: Anybody, given: TokenIn) -> dict[str, str]:
    """A token with the asker's rights or fewer. It is shown once. A token cannot make tokens."""
    if actor.session is None:
        raise AccessError("a token cannot make another one; log in")
    token_id, token = service.accounts.make_token(actor, given.name, given.scopes, given.days, given.reason)
    return {"id": token_id, "token": token}


@router.delete("/tokens/{token_id}", status_code=204, tags=["accounts"])
def revoke_token(service: ServiceDep, actor: Anybody, token_id: str) -> None:
    """End a token now."""
    if token_id not in {row["id"] for row in service.accounts.list_tokens(actor)}:
        raise MissingError(f"there is no token {token_id[:100]!r}")
    service.accounts.revoke_token(token_id, actor)


# Audit


@router.get("/audit", tags=["audit"])
def list_audit(
    service: ServiceDep,
    _: Administrator,
    cursor: Cursor = None,
    limit: Limit = 50,
    account: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Who did what, when, why, and what was looked at; the newest first."""
    entries = audit.list_entries(service.database, int(decode_cursor(cursor, "before", 2**52)), limit, account)
    return {
        "entries": [vars(entry) for entry in entries],
        "next": encode_cursor(before=entries[-1].seq) if len(entries) == limit else None,
    }


@router.get("/audit/verify", tags=["audit"])
def verify_audit(service: ServiceDep, _: Administrator) -> dict[str, Any]:
    """Recompute the chain of hashes."""
    found = audit.verify(service.database)
    return {
        "entries": found.entries,
        "faults": list(found.faults),
        "last_hash": found.last_hash,
        "whole": found.is_whole,
    }


# Retention, erasure, jobs


@router.get("/retention", tags=["retention"])
def get_retention(service: ServiceDep, _: Administrator) -> dict[str, Any]:
    """For how long each camera's footage is kept, what is due, and what is wrong with the clock (empty: nothing)."""
    due = ["/".join(due[:2]) for due in service.retention.due()]
    return {"days": service.retention.days(), "due": due, "clock": service.retention.clock_fault()}


@router.put("/retention/{camera}", status_code=204, tags=["retention"])
def set_retention(service: ServiceDep, actor: Administrator, camera: str, given: DaysIn) -> None:
    """Set a camera's days, at most the site's maximum."""
    service.retention.set_days(actor, camera, given.days, given.reason)


@router.post("/retention/run", status_code=202, tags=["retention"])
def run_retention(service: ServiceDep, actor: Administrator, given: ReasonIn) -> dict[str, str]:
    """Delete what is due, now, as a job."""
    return {"job": service.jobs.add("retention", actor.name, given.reason, {})}


@router.post("/retention/clock", status_code=204, tags=["retention"])
def confirm_clock(service: ServiceDep, actor: Administrator, given: ReasonIn) -> None:
    """Say that the service's clock is right although it jumped; retention deletes again."""
    service.retention.confirm_clock(actor, given.reason)


@router.get("/settings", tags=["retention"])
def get_settings(service: ServiceDep, _: Administrator) -> dict[str, Any]:
    """All settings with what they mean."""
    values = service.settings.all()
    return {
        name: {"value": values[name], "meaning": s.meaning, "from": s.low, "to": s.high} for name, s in SETTINGS.items()
    }


@router.put("/settings/{name}", status_code=204, tags=["retention"])
def set_setting(service: ServiceDep, actor: Administrator, name: str, given: SettingIn) -> None:
    """Change a setting."""
    service.settings.set(actor, name, given.value, given.reason)


@router.post("/erasures/preview", tags=["erasure"])
def preview_erasure(service: ServiceDep, actor: Eraser, given: ErasureIn) -> dict[str, Any]:
    """What an erasure would remove, and what it cannot reach. The digest confirms it."""
    plan = service.erasure.plan(actor, given.tracklets, given.searches)
    return {"digest": plan.digest, **plan.contents}


@router.post("/erasures", status_code=202, tags=["erasure"])
def erase(service: ServiceDep, actor: Eraser, given: ErasureConfirmedIn) -> dict[str, str]:
    """Erase what was previewed, as a job. Its report tells what was rewritten, checked, and not reached."""
    return {"job": start_erasure(service, actor, given.tracklets, given.searches, given.digest, given.reason)}


def start_erasure(
    service: Service, actor: Any, tracklets: list[str], searches: list[str], digest: str, reason: str
) -> str:
    """Raises DataError if the plan is not the one that was seen, or there is no reason."""
    if not reason.strip():
        raise DataError("an erasure needs a reason")
    plan = service.erasure.plan(actor, tracklets, searches)
    if plan.digest != digest:
        raise DataError("what would be erased has changed since the preview; look at it again")
    given = {"tracklets": plan.tracklets, "searches": plan.searches, "contents": plan.contents}
    return service.jobs.add("erasure", actor.name, reason, given)


@router.get("/jobs", tags=["jobs"])
def list_jobs(service: ServiceDep, _: Administrator) -> list[dict[str, Any]]:
    """The last jobs."""
    return service.jobs.list_jobs()


@router.get("/jobs/{job}", tags=["jobs"])
def get_job(service: ServiceDep, actor: Anybody, job: str) -> dict[str, Any]:
    """A job and its report."""
    return service.jobs.get(actor, job)


# Live sources and the watch list


@router.get("/sources", tags=["live"])
def list_sources(service: ServiceDep, actor: Searcher) -> list[dict[str, Any]]:
    """Live sources: state, last frame, frames dropped, errors."""
    return service.sources.list_sources(actor)


@router.post("/sources", status_code=201, tags=["live"])
def add_source(service: ServiceDep, actor: Administrator, given: SourceIn) -> dict[str, str]:
    """Index a stream from now on, by a process of its own."""
    return {"id": service.sources.add(actor, given.camera, given.address, given.archive, given.reason)}


@router.delete("/sources/{source}", status_code=204, tags=["live"])
def remove_source(service: ServiceDep, actor: Administrator, source: str) -> None:
    """End a source; what was indexed stays."""
    service.sources.remove(actor, source)


@router.get("/watch", tags=["live"])
def list_watch(service: ServiceDep, _: Administrator) -> list[dict[str, Any]]:
    """The watch list, with alerts."""
    return service.watch.list_entries()


@router.get("/watch/expect", tags=["live"])
def expect_watch(
    service: ServiceDep,
    actor: Administrator,
    search: Annotated[str, Query(max_length=100)],
    threshold: Annotated[float, Query(gt=0, le=1)],
) -> dict[str, Any]:
    """How many false alarms a day a threshold would give."""
    return service.watch.expect(actor, search, threshold)


@router.post("/watch", status_code=201, tags=["live"])
def add_watch(service: ServiceDep, actor: Administrator, given: WatchIn) -> dict[str, Any]:
    """Watch for a person. The secret of the signatures is shown once."""
    expected = service.watch.expect(actor, given.search, given.threshold)
    entry, secret = service.watch.add(actor, given.search, given.threshold, given.days, given.webhook, given.reason)
    return {"id": entry, "secret": secret, "expected": expected}


@router.delete("/watch/{entry}", status_code=204, tags=["live"])
def remove_watch(service: ServiceDep, actor: Administrator, entry: str) -> None:
    """End an entry."""
    service.watch.remove(actor, entry)


# Health


@open_router.get("/healthz", tags=["health"])
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@open_router.get("/readyz", tags=["health"], responses={503: {"description": "Something does not work; it says what"}})
def readyz(service: ServiceDep) -> JSONResponse:
    """Weights and archives are there, the state can be read, the disk has room, the clock is right."""
    found = service.readiness()
    content = {"ready": not found.wrong, "wrong": found.wrong, "free_mb": found.free_bytes >> 20}
    return JSONResponse(content, 503 if found.wrong else 200)


@open_router.get("/metrics", tags=["health"], response_class=Response)
def metrics(request: Request) -> Response:
    """Counts in Prometheus' format. It needs a token with the scope ``metrics``, or an administrator."""
    actor = who(request)
    if not actor.may("metrics"):
        raise AccessError("your role or token does not include 'metrics'")
    service = service_of(request)
    counts: Metrics = request.app.state.metrics
    found = service.readiness()
    counts.tracklets.set(found.num_tracklets)
    counts.free.set(found.free_bytes)
    counts.ready.set(0 if found.wrong else 1)
    for source in service.sources.list_sources(actor):
        for outcome in ("taken", "dropped"):
            counts.frames.labels(source["camera"], outcome).set(source[outcome])
    return Response(generate_latest(counts.registry), media_type="text/plain; version=0.0.4; charset=utf-8")
