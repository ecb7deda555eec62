"""What the API takes and gives, as pydantic models: they make the OpenAPI document and its examples."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TrackletId = Annotated[str, Field(max_length=300, examples=["archive~2026-11-28~gate~081400.000~1"])]
Text = Annotated[str, Field(max_length=1000)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Finite = Annotated[float, Field(ge=-1e12, le=1e12)]


class Model(BaseModel):
    """Base: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class FiltersIn(Model):
    """Which tracklets a search looks at; what is left out does not matter."""

    cameras: list[Name] | None = Field(None, max_length=1000, examples=[["gate", "hall"]])
    after_s: Finite | None = Field(None, description="Seen at this Unix time or later", examples=[1795852800.0])
    before_s: Finite | None = Field(None, description="Seen at this Unix time or earlier")
    weekdays: list[Annotated[int, Field(ge=0, le=6)]] | None = Field(
        None, max_length=7, description="0 is Monday; in the site's time zone", examples=[[0, 1, 2, 3, 4]]
    )
    from_hour: Annotated[float, Field(ge=0, le=24)] | None = Field(None, description="From 22 to 6 is the night")
    to_hour: Annotated[float, Field(ge=0, le=24)] | None = None


Box = Annotated[
    list[Finite],
    Field(min_length=4, max_length=4, description="Left, top, right, bottom in pixels", examples=[[10, 20, 60, 160]]),
]


class FrameBoxIn(Model):
    """A box on a frame of the footage."""

    camera: Name
    time_s: Finite
    box: Box


class SearchIn(Model):
    """A search by tracklets and boxes in the footage, or by a description. Photos go to ``/searches/photos``."""

    tracklets: list[TrackletId] = Field([], max_length=16, examples=[["archive~2026-11-28~gate~081400.000~1"]])
    boxes: list[FrameBoxIn] = Field([], max_length=16, examples=[[]])
    having: list[Name] = Field([], max_length=50, description="Attributes that the person has", examples=[[]])
    lacking: list[Name] = Field([], max_length=50, examples=[[]])
    filters: FiltersIn = Field(default_factory=lambda: FiltersIn.model_validate({}))
    reason: Text = Field("", examples=["theft reported on 28 November"])
    case: Annotated[str, Field(max_length=100)] | None = None


class PhotoOptionsIn(Model):
    """What accompanies uploaded photos, as JSON in the form field ``options``."""

    boxes: list[Box | None] | None = Field(None, max_length=16, description="For each photo the person's box, or null")
    filters: FiltersIn = Field(default_factory=lambda: FiltersIn.model_validate({}))
    reason: Text = ""
    case: Annotated[str, Field(max_length=100)] | None = None


class MeaningOut(BaseModel):
    """What a score says here."""

    strangers: float | None = Field(description="At most this share of strangers reaches it; null: not measured")
    text: str


class HitOut(BaseModel):
    """A tracklet, or a crop of a gallery, that was found."""

    place: int
    tracklet: str = Field(description="Its id; a crop of a gallery has one too")
    kind: Literal["tracklet", "crop"]
    camera: str = Field(description="Empty: a gallery that does not know it")
    begin_s: float | None = Field(description="Unix time; null: a gallery that does not know it")
    end_s: float | None
    begin: str
    end: str
    identity: str | None = Field(description="Of a gallery's crop, where it is known")
    source: str | None = Field(description="Of a gallery's crop: the path or name under which it was indexed")
    score: float
    crop_score: float | None
    meaning: MeaningOut
    answer: Literal["yes", "no"] | None
    answered_by: str | None
    thumbnail: str | None = Field(description="null: the picture of a gallery's crop is not there")
    clip: str | None = Field(description="null: a crop of a gallery has no footage")


class HitsOut(BaseModel):
    """A page of hits."""

    hits: list[HitOut]
    next: str | None = Field(description="The cursor of the next page; null at the end")


class SearchOut(BaseModel):
    """A search."""

    id: str
    case: str | None
    account: str
    reason: str
    filters: dict[str, Any]
    description: dict[str, Any]
    created_s: float
    queries: list[dict[str, Any]]
    hits: list[HitOut] = Field(description="The first page")
    next: str | None


class AnswerIn(Model):
    """What a person says of a hit."""

    tracklet: TrackletId
    answer: Literal["yes", "no", "undone"]


class TrackletOut(BaseModel):
    """One person in one camera, from when to when; or one crop of a gallery."""

    id: str
    kind: Literal["tracklet", "crop"]
    camera: str
    begin_s: float | None
    end_s: float | None
    begin: str
    end: str
    identity: str | None
    source: str | None
    num_frames: int
    crops: list[dict[str, Any]]
    clip: str | None


class CaseIn(Model):
    """A new case."""

    title: Annotated[str, Field(min_length=1, max_length=200)] = Field(examples=["Theft at the gate"])
    notes: Annotated[str, Field(max_length=20_000)] = ""
    reason: Text = ""


class CaseChangeIn(Model):
    """What changes in a case."""

    title: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    notes: Annotated[str, Field(max_length=20_000)] | None = None


class AttachIn(Model):
    """A search that goes into a case."""

    search: Annotated[str, Field(max_length=100)]


class ReasonIn(Model):
    """Why."""

    reason: Text = ""


class ErasureIn(Model):
    """Whom to erase."""

    tracklets: list[TrackletId] = Field([], max_length=10_000)
    searches: list[Annotated[str, Field(max_length=100)]] = Field([], max_length=100)


class ErasureConfirmedIn(ErasureIn):
    """The same, with what was seen in the preview."""

    digest: Annotated[str, Field(max_length=64)]
    reason: Annotated[str, Field(min_length=1, max_length=1000)]


class AccountIn(Model):
    """A new account."""

    name: Name
    password: Annotated[str, Field(max_length=1000)]
    role: Name = Field(examples=["operator"])
    reason: Text = ""


class AccountChangeIn(Model):
    """What changes in an account."""

    role: Name | None = None
    password: Annotated[str, Field(max_length=1000)] | None = None
    disabled: bool | None = None
    reason: Text = ""


class OwnPasswordIn(Model):
    """A new password for oneself."""

    old: Annotated[str, Field(max_length=1000)]
    new: Annotated[str, Field(max_length=1000)]


class RoleIn(Model):
    """A role: a kind of account, and its cameras."""

    name: Name
    kind: Literal["administrator", "operator", "viewer"]
    cameras: list[Name] | None = Field(None, max_length=1000, description="null: all")
    reason: Text = ""


class TokenIn(Model):
    """A token for a program."""

    name: Name
    scopes: list[Name] = Field(min_length=1, max_length=10, examples=[["view", "search"]])
    days: Annotated[int, Field(ge=1, le=366)]
    reason: Text = ""


class DaysIn(Model):
    """For how long a camera's footage is kept."""

    days: Annotated[int, Field(ge=1, le=3650)]
    reason: Text = ""


class SettingIn(Model):
    """A setting's value."""

    value: Annotated[int, Field(ge=-(2**31), le=2**31)]
    reason: Text = ""


class SourceIn(Model):
    """A live source."""

    camera: Name
    address: Annotated[str, Field(max_length=2000)] = Field(examples=["rtsp://camera.example.org/stream"])
    archive: Name | None = None
    reason: Text = ""


class WatchIn(Model):
    """An entry of the watch list."""

    search: Annotated[str, Field(max_length=100)]
    threshold: Annotated[float, Field(gt=0, le=1)]
    days: Annotated[int, Field(ge=1, le=90)]
    webhook: Annotated[str, Field(max_length=2000)] = Field(examples=["https://example.org/alerts"])
    reason: Annotated[str, Field(min_length=1, max_length=1000)]
