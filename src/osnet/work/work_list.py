"""A list of work in a folder that all workers share.

    WORK/
      work.json               the task, its settings, and the items
      results/ID.*            the result of an item; written aside, then renamed
      tries/ID.json           failed tries of an item, with the last error
      .lock                   held by the process that runs the list

An item's ID is a digest of the task, its settings and the item. So a result never belongs to another item, a changed
item is worked on again, and an item that two workers do at once gives one result. What is done is what has a result;
there is no other record. All machines must see the folder at the same path (NFS, or a mounted object store).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from osnet.errors import OsnetError, OutputError
from osnet.files import TEMPORARY_PREFIX, make_folder, write_json

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
        self.folder = Path(folder)
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

    @classmethod
    def plan(
        cls, folder: str | Path, task: str, settings: Mapping[str, Any], items: Sequence[Mapping[str, Any]]
    ) -> "WorkList":
        """Write the list into ``folder``, in place of an older one. Results stay only of items that are still listed.

        Args:
            folder: new, or of a list.
            task: a name of ``osnet.work.tasks.TASKS``.
            settings: what decides a result beside the item, as JSON.
            items: in order; each has a ``label`` for people to read.

        Raises:
            OutputError: the folder holds something else, or cannot be written.
        """
        folder = make_folder(folder)
        known = {"work.json", "results", "tries", ".lock"}
        if strange := sorted(
            path.name
            for path in folder.iterdir()
            if path.name not in known and not path.name.startswith(TEMPORARY_PREFIX)
        ):
            raise OutputError(f"{folder} is needed for a list of work but holds {strange[0]}; move it away")
        for name in ("results", "tries"):
            make_folder(folder / name)
        content = {"format": FORMAT, "task": task, "settings": dict(settings), "items": [dict(item) for item in items]}
        write_json(folder / "work.json", content)
        work = cls(folder)
        for path in [*(folder / "results").iterdir(), *(folder / "tries").iterdir()]:
            if path.stem not in work.items or path.name.startswith(TEMPORARY_PREFIX):
                path.unlink(missing_ok=True)
        return work

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Run the list alone. Raises OutputError if another process runs it."""
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(f"another process works on {self.folder}; wait until it ends") from error
        try:
            yield
        finally:
            lock.release()

    def result(self, item: str) -> Path:
        """Where the result of an item lies, or will lie."""
        return self.folder / "results" / (item + SUFFIXES.get(self.task, ".bin"))

    def todo(self) -> list[str]:
        """IDs of the items without a result, in order."""
        return [item for item in self.items if not self.result(item).exists()]

    def forget_tries(self) -> None:
        """Start counting anew: items that were set aside are tried again."""
        for path in (self.folder / "tries").iterdir():
            path.unlink(missing_ok=True)

    def record_failure(self, item: str, error: str, *, died: bool = False) -> bool:
        """Count a failed try. Returns True if the item is to be tried again."""
        tries, deaths, _ = self._tries(item)
        tries, deaths = (tries, deaths + 1) if died else (tries + 1, deaths)
        write_json(self.folder / "tries" / f"{item}.json", {"tries": tries, "deaths": deaths, "error": error[:2000]})
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


def identify(task: str, settings: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """The ID of an item."""
    text = json.dumps([task, settings, item], sort_keys=True, allow_nan=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
