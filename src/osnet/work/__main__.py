"""A worker process: reads IDs of items from its input, one a line, and answers each with a line of JSON.

python -m osnet.work FOLDER
"""

import json
import os
import sys
import warnings
from typing import Any

from osnet.work.worker import Worker


def main() -> None:
    """Work until the input ends, as it does when the process that started this one is gone."""
    worker = Worker(sys.argv[1])
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not be taken for an answer
    warnings.formatwarning = lambda message, *_args, **_more: f"warning: {message}\n"
    for line in sys.stdin:
        answer: dict[str, Any] = {"item": line.strip(), "error": worker.do(line.strip())}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library that is not Python, or a program that it starts, prints is no answer either
    main()
