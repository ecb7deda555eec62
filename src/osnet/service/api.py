"""The API for searching: ``/api/v1``. Everything that the pages do goes through the same parts."""

import io
import secrets
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from pydantic import ValidationError
from starlette.background import BackgroundTask

from osnet.errors import DataError
from osnet.service.accounts import Actor
from osnet.service.core import Service
from osnet.service.library import Filters
from osnet.service.media import draw_why, made_clip, read_frame
from osnet.service.queries import filters_from
from osnet.service.schemas import (
    AnswerIn,
    AttachIn,
    CaseChangeIn,
    CaseIn,
    FiltersIn,
    HitOut,
    HitsOut,
    MeaningOut,
    PhotoOptionsIn,
    ReasonIn,
    SearchIn,
    SearchOut,
    TrackletOut,
)
from osnet.service.searches import Found, MissingError
from osnet.service.web import (
    Anybody,
    Decider,
    Exporter,
    Reason,
    Searcher,
    ServiceDep,
    Viewer,
    decode_cursor,
    encode_cursor,
)
from osnet.video.archive import format_time

router = APIRouter(prefix="/api/v1")
PAGE = 24
Cursor = Annotated[str | None, Query(max_length=200, description="From the answer before: its ``next``")]
Limit = Annotated[int, Query(ge=1, le=200)]


@router.get("/me", tags=["accounts"])
def me(actor: Anybody) -> dict[str, Any]:
    """Who asks, and what they may do."""
    cameras = None if actor.cameras is None else sorted(actor.cameras)
    return {"name": actor.name, "kind": actor.kind, "cameras": cameras, "capabilities": sorted(actor.capabilities)}


@router.get("/cameras", tags=["search"])
def cameras(service: ServiceDep, actor: Viewer) -> list[dict[str, Any]]:
    """The cameras that the asker may see, with the times of their tracklets."""
    c = service.library.columns
    shown = []
    for camera in service.library.cameras():
        if actor.sees(camera):
            mine = c.cameras == camera
            begin, end = (float(c.begins[mine].min()), float(c.ends[mine].max())) if mine.any() else (None, None)
            shown.append({"camera": camera, "tracklets": int(mine.sum()), "begin_s": begin, "end_s": end})
    return shown


@router.get("/attributes", tags=["search"])
def attributes(service: ServiceDep, _: Viewer) -> list[str]:
    """What can be asked for in a description; empty without weights that predict attributes."""
    return list(service.library.attributes)


@router.post("/searches", status_code=201, tags=["search"])
def search(service: ServiceDep, actor: Searcher, given: SearchIn) -> SearchOut:
    """Search by tracklets, by boxes on frames, or by a description."""
    reason = service.check_reason(given.reason)
    queries = [service.searches.read_tracklet(actor, public) for public in given.tracklets]
    for box in given.boxes:
        if not actor.sees(box.camera) or box.camera not in service.library.cameras():
            raise MissingError(f"there is no camera {box.camera!r}")
        frame, time_s, _ = read_frame(service.library, box.camera, box.time_s)
        queries.append(service.searches.read_box(actor, box.camera, time_s, box.box, frame))
    new = service.searches.create(
        actor,
        queries,
        to_filters(given.filters),
        having=given.having,
        lacking=given.lacking,
        reason=reason,
        case_id=given.case,
    )
    return show_search(service, actor, new)


@router.post("/searches/photos", status_code=201, tags=["search"])
def search_photos(
    service: ServiceDep,
    actor: Searcher,
    photos: Annotated[list[UploadFile], File(description="Photos of one person; several count as one")],
    options: Annotated[str, Form(max_length=20_000, description="JSON: PhotoOptionsIn")] = "{}",
) -> SearchOut:
    """Search by photos. Each is a crop of the person, or has a box in ``options.boxes``."""
    try:
        said = PhotoOptionsIn.model_validate_json(options)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"options: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if said.boxes is not None and len(said.boxes) != len(photos):
        raise DataError(f"options.boxes has {len(said.boxes)} entries for {len(photos)} photos")
    reason = service.check_reason(said.reason)
    boxes = said.boxes or [None] * len(photos)
    queries = [
        service.searches.read_photo(photo.file.read(), photo.filename or "photo", box)
        for photo, box in zip(photos, boxes, strict=True)
    ]
    new = service.searches.create(actor, queries, to_filters(said.filters), reason=reason, case_id=said.case)
    return show_search(service, actor, new)


@router.get("/searches", tags=["search"])
def list_searches(service: ServiceDep, actor: Searcher, cursor: Cursor = None, limit: Limit = PAGE) -> dict[str, Any]:
    """The asker's searches, the newest first."""
    rows = service.searches.list_own(actor, decode_cursor(cursor, "before_s", float(2**40)), limit)
    more = encode_cursor(before_s=rows[-1]["created_s"]) if len(rows) == limit else None
    return {"searches": rows, "next": more}


@router.get("/searches/{search_id}", tags=["search"])
def get_search(service: ServiceDep, actor: Viewer, search_id: str) -> SearchOut:
    """A search with its first hits."""
    return show_search(service, actor, search_id)


@router.delete("/searches/{search_id}", status_code=204, tags=["search"])
def delete_search(service: ServiceDep, actor: Searcher, search_id: str) -> None:
    """Delete a search with its pictures, hits and answers."""
    service.searches.delete(actor, search_id)


@router.get("/searches/{search_id}/hits", tags=["search"])
def hits(service: ServiceDep, actor: Viewer, search_id: str, cursor: Cursor = None, limit: Limit = PAGE) -> HitsOut:
    """Hits in their present order."""
    shown, more = show_hits(service, actor, search_id, int(decode_cursor(cursor, "after", 0)), limit)
    return HitsOut(hits=shown, next=more)


@router.get("/searches/{search_id}/queries/{place}.jpg", tags=["search"], response_class=Response)
def query_picture(service: ServiceDep, actor: Viewer, search_id: str, place: int) -> Response:
    """A picture that was searched by."""
    return Response(service.searches.query_picture(actor, search_id, place), media_type="image/jpeg")


@router.post("/searches/{search_id}/answers", tags=["search"])
def answer(service: ServiceDep, actor: Decider, search_id: str, given: AnswerIn) -> HitsOut:
    """Yes, no, or undo; the hits are ranked again at once."""
    service.searches.answer(actor, search_id, given.tracklet, given.answer)
    shown, more = show_hits(service, actor, search_id, 0, PAGE)
    return HitsOut(hits=shown, next=more)


@router.get("/searches/{search_id}/answers", tags=["search"])
def answers(service: ServiceDep, actor: Viewer, search_id: str) -> list[dict[str, Any]]:
    """Every answer and undoing: who, when."""
    return service.searches.history(actor, search_id)


@router.get("/searches/{search_id}/timeline", tags=["search"])
def timeline(service: ServiceDep, actor: Viewer, search_id: str, reason: Reason = "") -> dict[str, Any]:
    """Where the person was when: confirmed and proposed appearances, and the ways between the confirmed ones."""
    row = service.searches.get(actor, search_id)
    shown, ways = service.timelines.draw(actor, search_id)
    listed = [one.id for one in shown]
    service.log_view(
        actor,
        "view.timeline",
        {"search": search_id, "tracklets": listed},
        service.check_reason(reason or row["reason"]),
    )
    return {
        "appearances": [vars(one) for one in shown],
        "ways": [
            {
                "start": w.start,
                "stop": w.stop,
                "seconds": w.seconds,
                "odd": w.is_odd,
                "usual_s": None if w.usual is None else [w.usual.min_s, w.usual.max_s],
            }
            for w in ways
        ],
    }


# Tracklets and footage


@router.get("/tracklets/{tracklet}", tags=["footage"])
def get_tracklet(
    service: ServiceDep, actor: Viewer, tracklet: str, search: str | None = None, reason: Reason = ""
) -> TrackletOut:
    """A tracklet: camera, times, crops."""
    seen = service.searches.see_tracklet(actor, tracklet)
    service.log_view(actor, "view.tracklet", {"tracklet": tracklet}, view_reason(service, actor, search, reason))
    address = f"/api/v1/tracklets/{tracklet}"
    return TrackletOut(
        id=tracklet,
        camera=seen.camera,
        begin_s=seen.begin_s,
        end_s=seen.end_s,
        begin=format_time(seen.begin_s),
        end=format_time(seen.end_s),
        num_frames=len(seen.numbers),
        clip=f"{address}/clip.mp4",
        crops=[
            {"picture": f"{address}/crops/{n}.jpg", "time_s": c.time_s, "box": list(c.box), "quality": c.quality}
            for n, c in enumerate(seen.crops, 1)
        ],
    )


@router.get("/tracklets/{tracklet}/crops/{number}.jpg", tags=["footage"], response_class=Response)
def crop(
    service: ServiceDep,
    actor: Viewer,
    tracklet: str,
    number: int,
    logged: Annotated[str, Query(max_length=64)] = "",
    search: str | None = None,
    reason: Reason = "",
) -> Response:
    """A crop; number 0 is the best one. ``logged`` comes with addresses in lists that were logged."""
    seen = service.searches.see_tracklet(actor, tracklet)
    if not 0 <= number <= len(seen.crops):
        raise MissingError(f"the tracklet has the crops 1 to {len(seen.crops)}")
    if not (logged and service.was_logged(actor, tracklet, logged)):
        why = view_reason(service, actor, search, reason)
        service.log_view(actor, "view.crop", {"tracklet": tracklet, "crop": number}, why)
    picture = seen.best_crop if number == 0 else seen.crops[number - 1]
    return Response(picture.path.read_bytes(), media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.get("/tracklets/{tracklet}/clip.mp4", tags=["footage"], response_class=FileResponse)
def clip(
    service: ServiceDep, actor: Viewer, tracklet: str, search: str | None = None, reason: Reason = ""
) -> FileResponse:
    """The passage of the footage with the box drawn. It is made for this answer and not kept."""
    seen = service.searches.see_tracklet(actor, tracklet)
    service.log_view(actor, "view.clip", {"tracklet": tracklet}, view_reason(service, actor, search, reason))
    making = made_clip(seen, service.temporary)
    path = making.__enter__()
    return FileResponse(
        path,
        media_type="video/mp4",
        background=BackgroundTask(making.__exit__, None, None, None),
        headers={"Cache-Control": "no-store"},
    )


@router.get("/tracklets/{tracklet}/why.png", tags=["footage"], response_class=Response)
def why(service: ServiceDep, actor: Viewer, tracklet: str, search: str, reason: Reason = "") -> Response:
    """Which parts of the first query picture and of the hit make their score."""
    seen = service.searches.see_tracklet(actor, tracklet)
    pictures = service.searches.queries(actor, search)
    if not pictures:
        raise MissingError("this search has no picture, so nothing can be compared")
    service.log_view(actor, "view.why", {"tracklet": tracklet}, view_reason(service, actor, search, reason))
    query = service.searches.query_picture(actor, search, pictures[0]["place"])
    return Response(draw_why(service.library, query, seen, service.temporary), media_type="image/png")


@router.get("/frames/{camera}.jpg", tags=["footage"], response_class=Response)
def frame(
    service: ServiceDep,
    actor: Viewer,
    camera: str,
    time_s: Annotated[float, Query(ge=-1e12, le=1e12)],
    reason: Reason = "",
) -> Response:
    """One frame of the footage, as JPEG; its own time stands in ``X-Time``."""
    picture, time_of, step = see_frame(service, actor, camera, time_s, reason)
    with io.BytesIO() as file:
        picture.save(file, format="JPEG", quality=90)
        headers = {"X-Time": f"{time_of:.3f}", "X-Step": f"{step:.4f}", "Cache-Control": "no-store"}
        return Response(file.getvalue(), media_type="image/jpeg", headers=headers)


@router.get("/frames/{camera}/boxes", tags=["footage"])
def frame_boxes(
    service: ServiceDep, actor: Viewer, camera: str, time_s: Annotated[float, Query(ge=-1e12, le=1e12)]
) -> list[dict[str, Any]]:
    """The tracklets on a frame, with their boxes in pixels, to pick one."""
    if not actor.sees(camera) or camera not in service.library.cameras():
        raise MissingError(f"there is no camera {camera[:100]!r}")
    shown = []
    for public in service.library.at(camera, time_s, 0.5):
        seen = service.library.tracklet(public)
        nearest = int(abs(seen.times_s - time_s).argmin())
        if abs(float(seen.times_s[nearest]) - time_s) < 0.5:
            shown.append({"tracklet": public, "box": [round(float(v), 1) for v in seen.boxes[nearest, :4]]})
    return shown


# Cases


@router.get("/cases", tags=["cases"])
def list_cases(service: ServiceDep, _: Viewer, cursor: Cursor = None, limit: Limit = PAGE) -> dict[str, Any]:
    """All cases, the newest first."""
    rows = service.cases.list_cases(decode_cursor(cursor, "before_s", float(2**40)), limit)
    return {"cases": rows, "next": encode_cursor(before_s=rows[-1]["created_s"]) if len(rows) == limit else None}


@router.post("/cases", status_code=201, tags=["cases"])
def create_case(service: ServiceDep, actor: Decider, given: CaseIn) -> dict[str, Any]:
    """Begin a case."""
    return service.cases.get(service.cases.create(actor, given.title, given.notes, service.check_reason(given.reason)))


@router.get("/cases/{case_id}", tags=["cases"])
def get_case(service: ServiceDep, actor: Viewer, case_id: str, reason: Reason = "") -> dict[str, Any]:
    """A case with its searches."""
    case = service.cases.get(case_id)
    service.log_view(actor, "view.case", {"case": case_id}, service.check_reason(reason or case["reason"]))
    return case


@router.patch("/cases/{case_id}", tags=["cases"])
def change_case(service: ServiceDep, actor: Decider, case_id: str, given: CaseChangeIn) -> dict[str, Any]:
    """New title or notes."""
    service.cases.change(actor, case_id, given.title, given.notes)
    return service.cases.get(case_id)


@router.delete("/cases/{case_id}", status_code=204, tags=["cases"])
def delete_case(service: ServiceDep, actor: Decider, case_id: str) -> None:
    """Delete a case with its searches."""
    service.cases.delete(actor, case_id)


@router.post("/cases/{case_id}/searches", tags=["cases"])
def attach_search(service: ServiceDep, actor: Decider, case_id: str, given: AttachIn) -> dict[str, Any]:
    """Put a search into a case."""
    service.cases.attach(actor, case_id, given.search)
    return service.cases.get(case_id)


@router.post("/cases/{case_id}/export", tags=["cases"], response_class=FileResponse)
def export_case(service: ServiceDep, actor: Exporter, case_id: str, given: ReasonIn) -> FileResponse:
    """The confirmed hits as a ZIP: crops, clips, a report, a manifest with SHA-256 of each file."""
    return make_export(service, actor, case_id, service.check_reason(given.reason))


def make_export(service: Service, actor: Actor, case_id: str, reason: str) -> FileResponse:
    """The ZIP of a case; the file is deleted once it is sent."""
    out = service.temporary / f"export-{secrets.token_hex(8)}.zip"
    try:
        digest = service.cases.export(actor, case_id, out, reason)
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return FileResponse(
        out,
        media_type="application/zip",
        filename="case.zip",
        headers={"X-SHA256": digest},
        background=BackgroundTask(Path.unlink, out, True),
    )


# Helpers


def to_filters(given: FiltersIn) -> Filters:
    """Raises DataError for filters that contradict each other."""
    return filters_from(given.model_dump())


def view_reason(service: Service, actor: Actor, search: str | None, reason: str) -> str:
    """The reason of a view: as it is given, or that of the search it belongs to."""
    if not reason and search:
        reason = str(service.searches.get(actor, search)["reason"])
    return service.check_reason(reason)


def see_frame(service: Service, actor: Actor, camera: str, time_s: float, reason: str) -> tuple[Any, float, float]:
    """A frame of a camera that the asker may see, logged. Raises MissingError, FootageError."""
    if not actor.sees(camera) or camera not in service.library.cameras():
        raise MissingError(f"there is no camera {camera[:100]!r}")
    reason = service.check_reason(reason)
    picture, time_of, step = read_frame(service.library, camera, time_s)
    service.log_view(actor, "view.frame", {"camera": camera, "time_s": time_of}, reason)
    return picture, time_of, step


def show_hits(
    service: Service, actor: Actor, search_id: str, after: int, limit: int
) -> tuple[list[HitOut], str | None]:
    """A page of hits, logged, and the cursor of the next one."""
    row = service.searches.get(actor, search_id)
    found = service.searches.hits(actor, search_id, after, limit)
    if found:
        what = {"search": search_id, "tracklets": [one.id for one in found]}
        service.log_view(actor, "view.hits", what, row["reason"])
    more = encode_cursor(after=found[-1].place) if len(found) == limit else None
    return [show_hit(service, actor, one) for one in found], more


def show_hit(service: Service, actor: Actor, one: Found) -> HitOut:
    """A hit as the API gives it."""
    address, seen = f"/api/v1/tracklets/{one.id}", one.tracklet
    return HitOut(
        place=one.place,
        tracklet=one.id,
        camera=seen.camera,
        begin_s=seen.begin_s,
        end_s=seen.end_s,
        begin=format_time(seen.begin_s),
        end=format_time(seen.end_s),
        score=round(one.score, 4),
        crop_score=None if one.crop_score is None else round(one.crop_score, 4),
        meaning=MeaningOut(strangers=one.meaning.strangers, text=one.meaning.text),
        answer=one.answer,
        answered_by=one.answered_by,
        thumbnail=f"{address}/crops/0.jpg?logged={service.sign_view(actor, one.id)}",
        clip=f"{address}/clip.mp4",
    )


def show_search(service: Service, actor: Actor, search_id: str) -> SearchOut:
    """A search as the API gives it."""
    row = service.searches.get(actor, search_id)
    shown, more = show_hits(service, actor, search_id, 0, PAGE)
    filters = {k: v for k, v in row["filters"].items() if v is not None}
    return SearchOut(
        id=row["id"],
        case=row["case_id"],
        account=row["account"],
        reason=row["reason"],
        filters=filters,
        description=row["description"],
        created_s=row["created_s"],
        queries=service.searches.queries(actor, search_id),
        hits=shown,
        next=more,
    )


def request_address(request: Request) -> str:
    """The client's IP address."""
    return request.client.host if request.client else "unknown"
