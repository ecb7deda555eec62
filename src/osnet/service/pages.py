"""The pages: HTML for people, over the same parts as the API. They work without scripts, but for boxes and keys."""

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, Response

from osnet.data.folder import to_unix_time
from osnet.errors import DataError
from osnet.service.api import make_export, show_hits
from osnet.service.api_footage import boxes_at, check_camera, has_picture, see_frame, view_reason
from osnet.service.columns import Filters
from osnet.service.core import Service
from osnet.service.forms import Csrf, Field, Fields, enter, go, read_number, seen_cameras, submit
from osnet.service.gallery_crops import GalleryCrop
from osnet.service.media import read_frame
from osnet.service.roles import Actor
from osnet.service.timeline_svg import draw_timeline
from osnet.service.times import show_moment
from osnet.service.web import ServiceDep, decode_cursor, render, safe_next

router = APIRouter(include_in_schema=False)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


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
        cameras=seen_cameras(service, actor),
        footage=[camera for camera in service.library.footage_cameras() if actor.sees(camera)],
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
    filters = Filters(
        cameras=tuple(camera) if camera else None,
        after_s=_time(after, service),
        before_s=_time(before, service),
        weekdays=tuple(int(read_number(day, "weekday")) for day in weekday) if weekday else None,
        from_hour=_hour(from_hour),
        to_hour=_hour(to_hour),
    )
    num_pictures = len(uploaded) + len(tracklet or []) + bool(frame_camera)
    service.searches.check_request(num_pictures, bool(having or lacking), case or None)
    if frame_camera:
        check_camera(service, actor, frame_camera)
    queries = [
        service.searches.read_photo(photo.file.read(), photo.filename or "photo", box)
        for photo, box in zip(uploaded, given_boxes, strict=True)
    ]
    queries += [service.searches.read_tracklet(actor, public) for public in tracklet or []]
    if frame_camera:
        picture, time_of, _ = read_frame(service.library, frame_camera, read_number(frame_time, "time"))
        box = _boxes(f"[{frame_box or 'null'}]", 1)[0]
        if box is None:
            raise DataError("draw a box around the person first")
        queries.append(service.searches.read_box(actor, frame_camera, time_of, box, picture))
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
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError("the boxes cannot be read") from error
    if len(boxes) != count:
        raise DataError(f"{len(boxes)} boxes for {count} pictures")
    return boxes


def _hour(text: str) -> float | None:
    """``22:30`` as 22.5."""
    if not text:
        return None
    hours, _, minutes = text.partition(":")
    return read_number(hours, "hour") + read_number(minutes or "0", "minute") / 60


def _time(text: str, service: Service) -> float | None:
    """A form's local time, in the site's zone, as Unix time."""
    if not text:
        return None
    try:
        return to_unix_time(datetime.fromisoformat(text), service.library.zone, "time")
    except DataError as error:  # the form's field takes no zone
        raise DataError(f"{error}; or choose a time before or after that hour") from error
    except (ValueError, OverflowError) as error:
        raise DataError(f"{text[:40]!r} is no time; give one like 2026-11-28T08:00") from error


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
    shown, ways = service.timelines.draw(actor, search_id)
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
            (one, service.library.glance(one.id).has_picture, service.sign_view(actor, one.id)) for one in shown
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
    can_explain = has_picture(seen) and bool(search and service.searches.queries(actor, search))
    return render(
        request,
        "tracklet.html",
        actor,
        title=f"{seen.camera or 'Camera unknown'}, {show_moment(seen.begin_s)}",
        seen=seen,
        crop=seen if isinstance(seen, GalleryCrop) else None,
        id=tracklet,
        search=search,
        said=said,
        can_explain=can_explain,
        pictures=seen.crops if has_picture(seen) else (),
        signature=service.sign_view(actor, tracklet),
    )


@router.get("/footage/{camera}")
def footage_page(request: Request, service: ServiceDep, camera: str) -> HTMLResponse:
    """A paused frame: draw a box, or pick one."""
    actor = enter(request, "search")
    check_camera(service, actor, camera)
    text = request.query_params.get("time", "")
    time_s = read_number(text, "time") if text else service.library.footage_begins(camera)
    picture, time_of, step = see_frame(service, actor, camera, time_s, "")
    return render(
        request,
        "footage.html",
        actor,
        title=f"Footage of {camera}",
        camera=camera,
        time_s=time_of,
        step=step,
        size=picture.size,
        boxes=boxes_at(service, camera, time_of),
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
