"""The command line. Each command is one function; tyro derives its flags from the signature."""

import io
import sys
from collections.abc import Sequence

from osnet.cli import (
    attributes,
    classes,
    datasets,
    exporting,
    figures,
    galleries,
    models,
    photos,
    reports,
    reranking,
    scoring,
    training,
    video,
)
from osnet.cli.common import EXIT_ERROR, EXIT_INTERRUPTED, app, told_once
from osnet.errors import OsnetError

__all__ = [
    "RESUMABLE",
    "attributes",
    "can_resume",
    "classes",
    "datasets",
    "exporting",
    "figures",
    "galleries",
    "main",
    "models",
    "photos",
    "reports",
    "reranking",
    "scoring",
    "training",
    "video",
]


RESUMABLE: dict[str, tuple[str, ...]] = {
    "train": (),
    "index": (),
    "embed": (),
    "demo": (),
    "data generate": (),
    "evaluate": ("--weights", "--features"),
    "calibrate": ("--features",),
    "report": ("--features",),
    "figure ranks": ("--features",),
    "figure curves": ("--features",),
}
"""Commands that keep what they have done when they are interrupted, and the flags that this takes."""


def can_resume(args: Sequence[str]) -> bool:
    """True if the command with these arguments, given again, resumes where it was interrupted."""
    for command, flags in RESUMABLE.items():
        words = command.split()
        if list(args[: len(words)]) == words:
            return all(any(arg == flag or arg.startswith(f"{flag}=") for arg in args) for flag in flags)
    return False


def main(args: list[str] | None = None) -> None:
    """Entry point of ``osnet``. Status 1: done, but trouble was found; 2: an error; 130: interrupted."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with told_once():
            app.cli(prog="osnet", description="OSNet: find the same person, or thing, again.", args=args)
    except OsnetError as error:
        print(f"osnet: {error}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None
    except KeyboardInterrupt:
        given = sys.argv[1:] if args is None else args
        resume = " Run the same command again to resume." if can_resume(given) else ""
        print(f"osnet: Interrupted.{resume}", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:  # a file without permission, a full disk: where no code of ours foresaw it
        print(f"osnet: {error}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None
