"""The pages: HTML for people, over the same parts as the API. They work without scripts, but for boxes and keys."""

import hmac
import json
import secrets
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Cookie, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from osnet.errors import DataError
from osnet.service import audit
from osnet.service.accounts import KINDS, AccessError, Actor
from osnet.service.api import make_export, see_frame, show_hits, view_reason
from osnet.service.api_admin import start_erasure
from osnet.service.core import Service
from osnet.service.library import Filters
from osnet.service.media import read_frame
from osnet.service.retention import SETTINGS
from osnet.service.searches import MissingError
from osnet.service.timeline_svg import draw_timeline
from osnet.service.web import (
    COOKIE,
    LOGIN_COOKIE,
    ServiceDep,
    check_csrf,
    decode_cursor,
    encode_cursor,
    render,
    safe_next,
    service_of,
    who,
)
from osnet.video.archive import format_time

router = APIRouter(include_in_schema=False)
Csrf = Annotated[str, Form(max_length=100)]
Field = Annotated[str, Form(max_length=2000)]
Fields = Annotated[list[str], Form()]
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


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


# Logging in


@router.get("/login")
def login_page(request: Request, next: Annotated[str, Query(max_length=2000)] = "/") -> HTMLResponse:
    """The form. A value in a cookie must come back in a field, so that nobody is logged in from another site."""
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


# Searching


@router.get("/")
def search_page(request: Request, service: ServiceDep) -> HTMLResponse:
    """The form for a search, and the asker's last ones."""
    actor = enter(request)
    if not actor.may("search"):
        return render(request, "cases.html", actor, title="Cases", cases=service.cases.list_cases())
    return render(
        request,
        "search.html",
        actor,
        title="Search",
        cameras=_cameras(service, actor),
        weekdays=WEEKDAYS,
        attributes=service.library.attributes,
        recent=service.searches.list_own(actor, limit=8),
        zone=service.options.zone,
        cases=service.cases.list_cases(),
        need_reason=service.settings.get("require_reason"),
    )


@router.post("/search")
def search(
    request: Request,
    service: ServiceDep,
    csrf: Csrf,
    photos: Annotated[list[UploadFile] | None, File()] = None,
    boxes: Field = "",
    tracklet: Fields | None = None,
    frame_camera: Field = "",
    frame_time: Field = "",
    frame_box: Field = "",
    having: Fields | None = None,
    lacking: Fields | None = None,
    camera: Fields | None = None,
    after: Field = "",
    before: Field = "",
    weekday: Fields | None = None,
    from_hour: Field = "",
    to_hour: Field = "",
    reason: Field = "",
    case: Field = "",
) -> Response:
    """Search by what the form holds."""
    actor = submit(request, csrf, "search")
    reason = service.check_reason(reason)
    uploaded = [photo for photo in photos or [] if photo.size]
    given_boxes = _boxes(boxes, len(uploaded))
    queries = [
        service.searches.read_photo(photo.file.read(), photo.filename or "photo", box)
        for photo, box in zip(uploaded, given_boxes, strict=True)
    ]
    queries += [service.searches.read_tracklet(actor, public) for public in tracklet or []]
    if frame_camera:
        if not actor.sees(frame_camera) or frame_camera not in service.library.cameras():
            raise MissingError(f"there is no camera {frame_camera[:100]!r}")
        picture, time_of, _ = read_frame(service.library, frame_camera, _number(frame_time, "time"))
        box = _boxes(f"[{frame_box or 'null'}]", 1)[0]
        if box is None:
            raise DataError("draw a box around the person first")
        queries.append(service.searches.read_box(actor, frame_camera, time_of, box, picture))
    filters = Filters(
        cameras=tuple(camera) if camera else None,
        after_s=_time(after, service),
        before_s=_time(before, service),
        weekdays=tuple(int(_number(day, "weekday")) for day in weekday) if weekday else None,
        from_hour=_hour(from_hour),
        to_hour=_hour(to_hour),
    )
    new = service.searches.create(
        actor, queries, filters, having=having or (), lacking=lacking or (), reason=reason, case_id=case or None
    )
    return go(f"/searches/{new}")


def _boxes(text: str, count: int) -> list[list[float] | None]:
    """Boxes of uploaded photos from the page's script: a JSON list of null or four numbers."""
    if not text:
        return [None] * count
    try:
        given = json.loads(text)
        boxes = [None if box is None else [float(v) for v in box] for box in given]
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError("the boxes cannot be read") from error
    if len(boxes) != count:
        raise DataError(f"{len(boxes)} boxes for {count} pictures")
    return boxes


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{name} {text[:40]!r} is no number") from error
    if not abs(value) < 1e12:
        raise DataError(f"{name} {text[:40]!r} is out of range")
    return value


def _hour(text: str) -> float | None:
    """``22:30`` as 22.5."""
    if not text:
        return None
    hours, _, minutes = text.partition(":")
    return _number(hours, "hour") + _number(minutes or "0", "minute") / 60


def _time(text: str, service: Service) -> float | None:
    """A form's local time, in the site's zone, as Unix time."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=service.library.zone)).timestamp()
    except (ValueError, OverflowError) as error:
        raise DataError(f"{text[:40]!r} is no time; give one like 2026-11-28T08:00") from error


def _cameras(service: Service, actor: Actor) -> list[str]:
    return [camera for camera in service.library.cameras() if actor.sees(camera)]


@router.get("/searches/{search_id}")
def results_page(
    request: Request, service: ServiceDep, search_id: str, cursor: Annotated[str | None, Query(max_length=200)] = None
) -> HTMLResponse:
    """The hits of a search."""
    actor = enter(request)
    return render(request, "results.html", actor, **_results(service, actor, search_id, cursor), title="Results")


def _results(service: Service, actor: Actor, search_id: str, cursor: str | None = None) -> dict[str, Any]:
    row = service.searches.get(actor, search_id)
    hits, more = show_hits(service, actor, search_id, int(decode_cursor(cursor, "after", 0)), 24)
    confirmed = [hit for hit in hits if hit.answer == "yes"]
    rejected = [hit for hit in hits if hit.answer == "no"]
    return {
        "search": row,
        "queries": service.searches.queries(actor, search_id),
        "more": more,
        "groups": [
            ("Confirmed", confirmed),
            ("Proposed", [hit for hit in hits if hit.answer is None]),
            ("Rejected", rejected),
        ],
        "calibrated": bool(service.library.scale.points),
        "cases": service.cases.list_cases(),
        "made": format_time(row["created_s"]),
    }


@router.post("/searches/{search_id}/answer")
def answer(
    request: Request, service: ServiceDep, search_id: str, csrf: Csrf, tracklet: Field, answer: Field, back: Field = ""
) -> Response:
    """Yes, no, or undo; htmx puts the new list in place of the old one."""
    actor = submit(request, csrf, "decide")
    if answer not in ("yes", "no", "undone"):
        raise DataError(f"unknown answer {answer[:40]!r}; choose from yes, no, undone")
    service.searches.answer(actor, search_id, tracklet, answer)  # type: ignore[arg-type]
    if "hx-request" in request.headers:
        return render(request, "_hits.html", actor, **_results(service, actor, search_id))
    return go(safe_next(back) if back else f"/searches/{search_id}")


@router.post("/searches/{search_id}/case")
def attach(
    request: Request, service: ServiceDep, search_id: str, csrf: Csrf, case: Field = "", title: Field = ""
) -> Response:
    """Put a search into a case, new or old."""
    actor = submit(request, csrf, "decide")
    row = service.searches.get(actor, search_id)
    case = case or service.cases.create(actor, title, "", row["reason"])
    service.cases.attach(actor, case, search_id)
    return go(f"/cases/{case}")


@router.get("/searches/{search_id}/timeline")
def timeline_page(request: Request, service: ServiceDep, search_id: str) -> HTMLResponse:
    """Where the person was when."""
    actor = enter(request)
    row = service.searches.get(actor, search_id)
    shown, ways = service.searches.timeline(actor, search_id)
    what = {"search": search_id, "tracklets": [one.id for one in shown]}
    service.log_view(actor, "view.timeline", what, service.check_reason(row["reason"]))
    cameras = {one.id: one.camera for one in shown}
    return render(
        request,
        "timeline.html",
        actor,
        title="Timeline",
        search=row,
        drawing=draw_timeline(shown, search_id),
        appearances=[
            (one, format_time(one.begin_s), format_time(one.end_s), service.sign_view(actor, one.id)) for one in shown
        ],
        ways=[(way, cameras[way.start], cameras[way.stop]) for way in ways],
    )


# Footage


@router.get("/tracklets/{tracklet}")
def tracklet_page(
    request: Request, service: ServiceDep, tracklet: str, search: Annotated[str, Query(max_length=100)] = ""
) -> HTMLResponse:
    """A tracklet: clip, crops, why it matched, answers."""
    actor = enter(request)
    seen = service.searches.see_tracklet(actor, tracklet)
    service.log_view(actor, "view.tracklet", {"tracklet": tracklet}, view_reason(service, actor, search or None, ""))
    said = service.searches.answers(search).get(tracklet) if search else None
    has_picture = bool(search and service.searches.queries(actor, search))
    return render(
        request,
        "tracklet.html",
        actor,
        title=f"{seen.camera}, {format_time(seen.begin_s)}",
        seen=seen,
        id=tracklet,
        search=search,
        said=said,
        has_picture=has_picture,
        begin=format_time(seen.begin_s),
        end=format_time(seen.end_s),
        crop_times=[format_time(crop.time_s) for crop in seen.crops],
        signature=service.sign_view(actor, tracklet),
    )


@router.get("/footage/{camera}")
def footage_page(request: Request, service: ServiceDep, camera: str) -> HTMLResponse:
    """A paused frame: draw a box, or pick one."""
    actor = enter(request, "search")
    if camera not in _cameras(service, actor):
        raise MissingError(f"there is no camera {camera[:100]!r}")
    text = request.query_params.get("time", "")
    if text:
        time_s = _number(text, "time")
    else:
        c = service.library.columns
        mine = c.cameras == camera
        time_s = float(c.begins[mine].min()) if mine.any() else 0.0
    picture, time_of, step = see_frame(service, actor, camera, time_s, "")
    boxes = []
    for public in service.library.at(camera, time_of, 0.5):
        seen = service.library.tracklet(public)
        nearest = int(abs(seen.times_s - time_of).argmin())
        if abs(float(seen.times_s[nearest]) - time_of) < 0.5:
            boxes.append((public, [round(float(v), 1) for v in seen.boxes[nearest, :4]]))
    return render(
        request,
        "footage.html",
        actor,
        title=f"Footage of {camera}",
        camera=camera,
        time_s=time_of,
        step=step,
        when=format_time(time_of),
        size=picture.size,
        boxes=boxes,
        need_reason=service.settings.get("require_reason"),
    )


# Cases


@router.get("/cases")
def cases_page(request: Request, service: ServiceDep) -> HTMLResponse:
    """All cases."""
    return render(request, "cases.html", enter(request), title="Cases", cases=service.cases.list_cases())


@router.post("/cases")
def create_case(request: Request, service: ServiceDep, csrf: Csrf, title: Field, reason: Field = "") -> Response:
    """Begin a case."""
    actor = submit(request, csrf, "decide")
    return go(f"/cases/{service.cases.create(actor, title, '', service.check_reason(reason))}")


@router.get("/cases/{case_id}")
def case_page(request: Request, service: ServiceDep, case_id: str) -> HTMLResponse:
    """A case: notes, searches, confirmed hits, export."""
    actor = enter(request)
    case = service.cases.get(case_id)
    parts = [(row, service.searches.confirmed(actor, row["id"])) for row in case["searches"]]
    listed = [hit.id for _, found in parts for hit in found]
    service.log_view(actor, "view.case", {"case": case_id, "tracklets": listed}, service.check_reason(case["reason"]))
    return render(
        request,
        "case.html",
        actor,
        title=case["title"],
        case=case,
        parts=parts,
        format_time=format_time,
        sign=lambda public: service.sign_view(actor, public),
        need_reason=service.settings.get("require_reason"),
    )


@router.post("/cases/{case_id}")
def change_case(
    request: Request,
    service: ServiceDep,
    case_id: str,
    csrf: Csrf,
    title: Field,
    notes: Annotated[str, Form(max_length=20_000)] = "",
) -> Response:
    """New title and notes."""
    service.cases.change(submit(request, csrf, "decide"), case_id, title, notes)
    return go(f"/cases/{case_id}")


@router.post("/cases/{case_id}/delete")
def delete_case(request: Request, service: ServiceDep, case_id: str, csrf: Csrf) -> Response:
    """Delete a case with its searches."""
    service.cases.delete(submit(request, csrf, "decide"), case_id)
    return go("/cases")


@router.post("/cases/{case_id}/export")
def export_case(request: Request, service: ServiceDep, case_id: str, csrf: Csrf, reason: Field = "") -> FileResponse:
    """The case as a ZIP."""
    actor = submit(request, csrf, "export")
    return make_export(service, actor, case_id, service.check_reason(reason))


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
        format_time=format_time,
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
        cameras=_cameras(service, actor),
        token=token,
        scopes=sorted(actor.capabilities),
        format_time=format_time,
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
    """Another role, or disable it."""
    actor = submit(request, csrf, "admin")
    service.accounts.change(account, actor, role=role or None, disabled=None if not disabled else disabled == "yes")
    return go("/accounts")


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
    _, token = service.accounts.make_token(actor, name, scope, int(_number(days, "days")))
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
        format_time=format_time,
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
        due=service.retention.due(),
        settings=service.settings.all(),
        about=SETTINGS,
        jobs=service.jobs.list_jobs(20),
        format_time=format_time,
        behind=service.retention.clock_was_set_back(),
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
        service.retention.set_days(actor, camera, int(_number(days, "days")))
    if setting:
        service.settings.set(actor, setting, int(_number(value, setting)))
    return go("/retention")


@router.post("/retention/run")
def run_retention(request: Request, service: ServiceDep, csrf: Csrf) -> Response:
    """Delete what is due, now."""
    actor = submit(request, csrf, "admin")
    return go(f"/jobs/{service.jobs.add('retention', actor.name, '', {})}")


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
        archives=list(service.library.folders),
        watch_on=service.settings.get("watch_list"),
        format_time=format_time,
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
    limit = _number(threshold, "threshold")
    expected = service.watch.expect(actor, search, limit)
    _, secret = service.watch.add(actor, search, limit, int(_number(days, "days")), webhook, reason)
    return render(
        request,
        "live.html",
        actor,
        title="Live",
        sources=service.sources.list_sources(actor),
        expected=expected,
        archives=list(service.library.folders),
        watch_on=1,
        entries=service.watch.list_entries(),
        secret=secret,
        recent=service.searches.list_own(actor, limit=20),
        format_time=format_time,
    )


@router.post("/watch/{entry}/remove")
def remove_watch(request: Request, service: ServiceDep, entry: str, csrf: Csrf) -> Response:
    """End an entry of the watch list."""
    service.watch.remove(submit(request, csrf, "admin"), entry)
    return go("/live")
