"""A list of work in a folder, or an object store, that all workers share.

    WORK/
      work.json               the task, its settings, and the items
      results/ID.*            the result of an item; written aside, then renamed
      tries/ID.json           failed tries of an item, with the last error
      .lock                   held by the process that runs the list

An item's ID is a digest of the task, its settings and the item. So a result never belongs to another item, a changed
item is worked on again, and an item that two workers do at once gives one result. What is done is what has a result;
there is no other record. All machines must see the folder at the same path, or reach the object store (``places``).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from osnet.errors import OsnetError, OutputError
from osnet.files import TEMPORARY_PREFIX
from osnet.work.places import files_in, is_object_store, make_place, open_place, put_json, put_new

FORMAT = "osnet-work-1"
SUFFIXES = {"embed": ".npz", "video": ".json"}
"""Of the results of each task."""
MAX_TRIES = 3
"""An item that fails this often is set aside."""
MAX_DEATHS = 10
"""So is an item whose worker dies this often: of a lack of memory, for instance. Others kill workers, too."""


class QuarantineError(OsnetError, RuntimeError):
    """Items that failed again and again; everything else is done. The message names them."""


@dataclass(frozen=True)
class Quarantined:
    """An item that was set aside."""

    item: str
    """Its ID."""
    label: str
    """What it is, for people to read."""
    error: str
    """The last error."""


class WorkList:
    """A list of work, in ``folder``."""

    def __init__(self, folder: str | Path) -> None:
        """Open a list that exists. Raises OutputError if there is none, or it is damaged."""
        self.folder = open_place(folder)
        try:
            content = json.loads((self.folder / "work.json").read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            self.task: str = str(content["task"])
            self.settings: dict[str, Any] = dict(content["settings"])
            self.items: dict[str, dict[str, Any]] = {}
            for item in content["items"]:
                self.items[identify(self.task, self.settings, item)] = item
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise OutputError(f"{self.folder} holds no list of work: {error}") from error
        self._lock = None if is_object_store(self.folder) else FileLock(self.folder / ".lock", timeout=0)

    @classmethod
    def plan(
        cls, folder: str | Path, task: str, settings: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> "WorkList":
        """Write the list into ``folder``, as ``planned``, and let it go."""
        with cls.planned(folder, task, settings, items) as work:
            return work

    @classmethod
    @contextmanager
    def planned(
        cls, folder: str | Path, task: str, settings: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> Iterator["WorkList"]:
        """Write the list into ``folder``, in place of an older one, and hold it until the end of the block.

        Results stay only of items that are still listed.

        Args:
            folder: new, or of a list; or ``s3://BUCKET/NAME``.
            task: a name of ``osnet.work.tasks.TASKS``.
            settings: what decides a result beside the item, as JSON.
            items: in order; each has a ``label`` for people to read.

        Raises:
            OutputError: the folder holds something else, or cannot be written; or another process runs its list,
                which then stays as it is.
        """
        place = open_place(folder)
        make_place(place)
        known = {"work.json", "results", "tries", ".lock"}
        if strange := sorted(
            path.name
            for path in files_in(place)
            if path.name not in known and not path.name.startswith(TEMPORARY_PREFIX)
        ):
            raise OutputError(f"{place} is needed for a list of work but holds {strange[0]}; move it away")
        content = {"format": FORMAT, "task": task, "settings": dict(settings), "items": [dict(item) for item in items]}
        lock = None if is_object_store(place) else FileLock(place / ".lock", timeout=0)
        with _holding(lock):
            put_json(place / "work.json", content)
            work = cls(place)
            work._lock = lock
            for path in [*files_in(place / "results"), *files_in(place / "tries")]:
                if path.stem not in work.items or path.name.startswith(TEMPORARY_PREFIX):
                    path.unlink(missing_ok=True)
            yield work

    def locked(self) -> AbstractContextManager[None]:
        """Run the list alone; may be nested. Raises OutputError if another process, or another object, holds it.

        In an object store nothing is locked: two runs do the same work twice, and the first result of an item stays.
        """
        return _holding(self._lock)

    def result(self, item: str) -> Any:
        """Where the result of an item lies, or will lie: a ``Path``, or a ``UPath`` in an object store."""
        return self.folder / "results" / (item + SUFFIXES.get(self.task, ".bin"))

    @contextmanager
    def committing(self, item: str) -> Iterator[Path]:
        """A path for the task to write the result to, by a rename."""
        result = self.result(item)
        if not is_object_store(result):
            yield result
            return
        with TemporaryDirectory() as folder:
            yield Path(folder) / result.name
            put_new(result, (Path(folder) / result.name).read_bytes())

    @contextmanager
    def reading(self, item: str) -> Iterator[Path]:
        """The result of an item as a local file."""
        result = self.result(item)
        if not is_object_store(result):
            yield result
            return
        with TemporaryDirectory() as folder:
            local = Path(folder) / result.name
            local.write_bytes(result.read_bytes())
            yield local

    def todo(self) -> list[str]:
        """IDs of the items without a result, in order."""
        there = {path.name for path in files_in(self.folder / "results")}
        return [item for item in self.items if self.result(item).name not in there]

    def forget_tries(self) -> None:
        """Start counting anew: items that were set aside are tried again."""
        for path in files_in(self.folder / "tries"):
            path.unlink(missing_ok=True)

    def record_failure(self, item: str, error: str, *, died: bool = False) -> bool:
        """Count a failed try. Returns True if the item is to be tried again."""
        tries, deaths, _ = self._tries(item)
        tries, deaths = (tries, deaths + 1) if died else (tries + 1, deaths)
        put_json(self.folder / "tries" / f"{item}.json", {"tries": tries, "deaths": deaths, "error": error[:2000]})
        return tries < MAX_TRIES and deaths < MAX_DEATHS

    def _tries(self, item: str) -> tuple[int, int, str]:
        try:
            content = json.loads((self.folder / "tries" / f"{item}.json").read_text(encoding="utf-8"))
            return int(content["tries"]), int(content["deaths"]), str(content["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0, ""

    def quarantined(self) -> list[Quarantined]:
        """Items that were set aside, in order."""
        found = []
        for item in self.todo():
            tries, deaths, error = self._tries(item)
            if tries >= MAX_TRIES or deaths >= MAX_DEATHS:
                found.append(Quarantined(item, str(self.items[item].get("label", item)), error))
        return found

    def check_complete(self) -> None:
        """Raise QuarantineError if items were set aside, or OutputError if some are still to be done."""
        if aside := self.quarantined():
            named = "; ".join(f"{one.label}: {one.error}" for one in aside[:5])
            raise QuarantineError(
                f"{len(aside)} of {len(self.items)} items failed {MAX_TRIES} times and were set aside: {named}. The "
                "others are done; mend these, and give the same command again"
            )
        if todo := self.todo():
            raise OutputError(f"{len(todo)} of {len(self.items)} items of {self.folder} are not done")


@contextmanager
def _holding(lock: BaseFileLock | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"another process works on {Path(lock.lock_file).parent}; wait until it ends") from error
    try:
        yield
    finally:
        lock.release()


def identify(task: str, settings: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """The ID of an item."""
    text = json.dumps([task, settings, item], sort_keys=True, allow_nan=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
