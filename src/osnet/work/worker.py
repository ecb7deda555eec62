"""A worker process: reads IDs of items from its input, one a line, and answers each with a line of JSON.

python -m osnet.work.worker FOLDER
"""

from osnet.work.tasks import Task, make_task
from osnet.work.work_list import WorkList


class Worker:
    """Does items of a list; makes the task at the first one."""

    def __init__(self, folder: str) -> None:
        self._work = WorkList(folder)
        self._task: Task | None = None

    def do(self, item: str) -> str | None:
        """Do one item. Returns None, or the error in words."""
        try:
            if self._work.result(item).exists():
                return None
            if self._task is None:
                self._task = make_task(self._work.task, self._work.settings)
            with self._work.committing(item) as path:
                self._task(self._work.items[item], path)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None
