"""The API for searching: ``/api/v1``. Everything that the pages do goes through the same parts."""

import secrets
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from pydantic import ValidationError
from starlette.background import BackgroundTask

from osnet.errors import DataError
from osnet.service.api_footage import check_camera, describe_seen
from osnet.service.columns import Filters
from osnet.service.core import Service
from osnet.service.media import read_frame
from osnet.service.queries import filters_from
from osnet.service.roles import Actor
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
)
from osnet.service.searches import Found
from osnet.service.times import known
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
            timed = mine & np.isfinite(c.begins)
            begin, end = (float(c.begins[timed].min()), float(c.ends[timed].max())) if timed.any() else (None, None)
            shown.append({"camera": camera, "tracklets": int(mine.sum()), "begin_s": begin, "end_s": end})
    return shown


@router.get("/attributes", tags=["search"])
def attributes(service: ServiceDep, _: Viewer) -> list[str]:
    """What can be asked for in a description; empty without weights that predict attributes."""
    return list(service.library.attributes)


@router.post("/searches", status_code=201, tags=["search"])
def search(service: ServiceDep, actor: Searcher, given: SearchIn) -> SearchOut:
    """Search by tracklets, by boxes on frames, or by a description."""
    reason, filters = service.check_reason(given.reason), to_filters(given.filters)
    num_pictures = len(given.tracklets) + len(given.boxes)
    service.searches.check_request(num_pictures, bool(given.having or given.lacking), given.case)
    for box in given.boxes:
        check_camera(service, actor, box.camera)
    queries = [service.searches.read_tracklet(actor, public) for public in given.tracklets]
    for box in given.boxes:
        frame, time_s, _ = read_frame(service.library, box.camera, box.time_s)
        queries.append(service.searches.read_box(actor, box.camera, time_s, box.box, frame))
    shown: list[SearchOut] = []
    service.searches.create(
        actor,
        queries,
        filters,
        having=given.having,
        lacking=given.lacking,
        reason=reason,
        case_id=given.case,
        then=lambda new: shown.append(show_search(service, actor, new)),
    )
    return shown[0]


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
    reason, filters = service.check_reason(said.reason), to_filters(said.filters)
    service.searches.check_request(len(photos), False, said.case)
    boxes = said.boxes or [None] * len(photos)
    queries = [
        service.searches.read_photo(photo.file.read(), photo.filename or "photo", box)
        for photo, box in zip(photos, boxes, strict=True)
    ]
    shown: list[SearchOut] = []
    service.searches.create(
        actor,
        queries,
        filters,
        reason=reason,
        case_id=said.case,
        then=lambda new: shown.append(show_search(service, actor, new)),
    )
    return shown[0]


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
        "appearances": [{**vars(one), "begin_s": known(one.begin_s), "end_s": known(one.end_s)} for one in shown],
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
    address, seen = f"/api/v1/tracklets/{one.id}", one.seen
    return HitOut(
        place=one.place,
        tracklet=one.id,
        **describe_seen(seen),
        score=round(one.score, 4),
        crop_score=None if one.crop_score is None else round(one.crop_score, 4),
        meaning=MeaningOut(strangers=one.meaning.strangers, text=one.meaning.text),
        answer=one.answer,
        answered_by=one.answered_by,
        thumbnail=f"{address}/crops/0.jpg?logged={service.sign_view(actor, one.id)}" if seen.has_picture else None,
        clip=None if seen.crop else f"{address}/clip.mp4",
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
