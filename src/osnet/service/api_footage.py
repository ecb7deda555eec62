"""The API for what is seen: tracklets, crops, clips, frames of the footage."""

import io
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from osnet.service.columns import Glance
from osnet.service.core import Service
from osnet.service.gallery_crops import GalleryCrop
from osnet.service.media import draw_why, made_clip, read_frame
from osnet.service.roles import Actor
from osnet.service.schemas import TrackletOut
from osnet.service.searches import MissingError
from osnet.service.times import known, show_time
from osnet.service.web import Reason, ServiceDep, Viewer
from osnet.video.archive import Tracklet

router = APIRouter(prefix="/api/v1")


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
        **describe_seen(service.library.glance(tracklet)),
        num_frames=len(seen.numbers),
        clip=None if isinstance(seen, GalleryCrop) else f"{address}/clip.mp4",
        crops=[
            {"picture": f"{address}/crops/{n}.jpg", "time_s": known(c.time_s), "box": list(c.box), "quality": c.quality}
            for n, c in enumerate(seen.crops, 1)
            if has_picture(seen)
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
    return Response(
        service.library.picture(seen, number), media_type="image/jpeg", headers={"Cache-Control": "no-store"}
    )


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
    check_camera(service, actor, camera)
    return [{"tracklet": public, "box": box} for public, box in boxes_at(service, camera, time_s)]


# Helpers


def check_camera(service: Service, actor: Actor, camera: str) -> None:
    """Raise MissingError for a camera that is not there, has no footage, or is not of the asker's role."""
    if not actor.sees(camera) or camera not in service.library.footage_cameras():
        raise MissingError(f"there is no camera {camera[:100]!r} with footage")


def boxes_at(service: Service, camera: str, time_s: float) -> list[tuple[str, list[float]]]:
    """Tracklets in a camera's view at a time, with their boxes in pixels."""
    shown = []
    for public in service.library.at(camera, time_s, 0.5):
        seen = service.library.tracklet(public)
        if isinstance(seen, GalleryCrop):
            continue
        nearest = int(abs(seen.times_s - time_s).argmin())
        if abs(float(seen.times_s[nearest]) - time_s) < 0.5:
            shown.append((public, [round(float(v), 1) for v in seen.boxes[nearest, :4]]))
    return shown


def describe_seen(seen: Glance) -> dict[str, Any]:
    """What hits and tracklets say of themselves in the API."""
    crop = seen.crop
    return {
        "kind": "crop" if crop else "tracklet",
        "camera": seen.camera,
        "begin_s": known(seen.begin_s),
        "end_s": known(seen.end_s),
        "begin": show_time(seen.begin_s),
        "end": show_time(seen.end_s),
        "identity": crop.identity if crop else None,
        "source": crop.source if crop else None,
    }


def has_picture(seen: Tracklet) -> bool:
    """False for a gallery's crop whose picture is not there."""
    return not isinstance(seen, GalleryCrop) or seen.picture is not None


def view_reason(service: Service, actor: Actor, search: str | None, reason: str) -> str:
    """The reason of a view: as it is given, or that of the search it belongs to."""
    if not reason and search:
        reason = str(service.searches.get(actor, search)["reason"])
    return service.check_reason(reason)


def see_frame(service: Service, actor: Actor, camera: str, time_s: float, reason: str) -> tuple[Any, float, float]:
    """A frame of a camera that the asker may see, logged. Raises MissingError, FootageError."""
    check_camera(service, actor, camera)
    reason = service.check_reason(reason)
    picture, time_of, step = read_frame(service.library, camera, time_s)
    service.log_view(actor, "view.frame", {"camera": camera, "time_s": time_of}, reason)
    return picture, time_of, step
