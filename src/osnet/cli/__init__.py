"""The command line. Each command is one function; tyro derives its flags from the signature."""

import sys

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
from osnet.cli.common import EXIT_ERROR, EXIT_INTERRUPTED, app
from osnet.errors import OsnetError

__all__ = [
    "attributes",
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


def main(args: list[str] | None = None) -> None:
    """Entry point of ``osnet``. Status 1: done, but trouble was found; 2: an error; 130: interrupted."""
    try:
        app.cli(prog="osnet", description="OSNet: find the same person, or thing, again.", args=args)
    except OsnetError as error:
        print(f"osnet: {error}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None
    except KeyboardInterrupt:
        print(
            "osnet: interrupted; what index, embed and evaluate --features had done is kept: "
            "the same command goes on from there",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:  # a file without permission, a full disk: where no code of ours foresaw it
        print(f"osnet: {error}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None
