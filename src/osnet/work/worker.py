"""A worker process: reads IDs of items from its input, one a line, and answers each with a line of JSON.

python -m osnet.work.worker FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

from osnet.work.tasks import Task, make_task
from osnet.work.work_list import WorkList


class Worker:
    """Does items of a list; makes the task at the first one."""

    def __init__(self, folder: str) -> None:
        self._work = WorkList(Path(folder))
        self._task: Task | None = None

    def do(self, item: str) -> str | None:
        """Do one item. Returns None, or the error in words."""
        try:
            if self._work.result(item).exists():
                return None
            if self._task is None:
                self._task = make_task(self._work.task, self._work.settings)
            self._task(self._work.items[item], self._work.result(item))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None


def main() -> None:
    """Work until the input ends, as it does when the process that started this one is gone."""
    worker = Worker(sys.argv[1])
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not be taken for an answer
    for line in sys.stdin:
        answer: dict[str, Any] = {"item": line.strip(), "error": worker.do(line.strip())}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
