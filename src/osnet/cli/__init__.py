"""The command line. Each command is one function; tyro derives its options from the signature.

A command's module is imported when that command runs, so ``osnet --help`` loads neither PyTorch nor any command.
"""

import difflib
import inspect
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

COMMANDS: dict[str, str] = {
    "index": "Embed a folder of crops into a gallery.",
    "search": "Search a gallery by an image, by a description, or by both.",
    "gallery": "Show what a gallery holds, or delete items from it.",
    "store": "Copy, show or check embeddings in a gallery, PostgreSQL or Qdrant, or delete items.",
    "video": "Index, track, link and draw footage.",
    "serve": "Serve archives and galleries as a page and an HTTP API.",
    "audit": "Check the audit log of a service.",
    "embed": "Embed images into a file of embeddings.",
    "evaluate": "Score re-identification weights on a data set or on benchmarks.",
    "evaluate-features": "Score files of embeddings.",
    "evaluate-classes": "Score weights on a classification.",
    "average": "Average several results of osnet evaluate.",
    "calibrate": "Choose a score threshold on a validation set.",
    "rerank": "Re-rank embeddings (k-reciprocal, Zhong et al. 2017).",
    "train": "Train by a recipe.",
    "recipes": "List the recipes, or print one with its sources and values.",
    "predict": "Predict attributes or classes.",
    "attributes": "Show, switch off or evaluate the attributes of weights.",
    "data": "Check, generate or pack a data set; list the benchmarks.",
    "models": "List the networks with their parameters and multiply-adds.",
    "weights": "List published weights.",
    "card": "Describe an ONNX or OpenVINO network in a card.",
    "convert": "Convert weights between Torchreid's files and checkpoint folders.",
    "export": "Write ONNX or OpenVINO files.",
    "figure": "Draw activation maps, matches, gates, ranked lists, curves.",
    "report": "Write an HTML report on weights.",
    "demo": "Find painted people in painted footage; compare two networks.",
}
"""Command -> one line of help. The module of this package that defines it has its name, with ``_`` for ``-``."""

RESUMABLE: dict[str, tuple[str, ...]] = {
    "train": (),
    "index": (),
    "embed": (),
    "demo": (),
    "video index": (),
    "store copy": (),
    "data generate": (),
    "evaluate": ("--weights", "--features"),
    "calibrate": ("--features",),
    "report": ("--features",),
    "figure ranks": ("--features",),
    "figure curves": ("--features",),
}
"""Commands that keep finished work when they are interrupted, and the options that this takes."""


def can_resume(args: Sequence[str]) -> bool:
    """True if the command with these arguments, given again, resumes where it was interrupted."""
    for command, flags in RESUMABLE.items():
        words = command.split()
        if list(args[: len(words)]) == words:
            return all(any(arg == flag or arg.startswith(f"{flag}=") for arg in args) for flag in flags)
    return False


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of ``osnet``.

    Exit status: 0 done; 1 done, but something was left out or found wrong; 2 an error; 130 interrupted;
    141 what reads the output has ended, so that work may be left.
    """
    given = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):  # a file name may hold characters that the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if not given or given[0] in ("-h", "--help"):
            print(describe_commands())
        elif given[0] == "--version":
            from osnet import __version__

            print(f"osnet {__version__}")
        elif given[0] not in COMMANDS:
            near = difflib.get_close_matches(given[0], COMMANDS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            print(f"osnet: unknown command {given[0]!r}{hint} `osnet --help` lists the commands.", file=sys.stderr)
            raise SystemExit(EXIT_ERROR)
        else:
            _run(given)
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk is still an error with words
    except KeyboardInterrupt:
        resume = " Resume with the same command." if can_resume(given) else ""
        print(f"osnet: Interrupted.{resume}", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:  # the program that reads the output has ended; work may be left
        with suppress(OSError, ValueError, AttributeError):  # no file behind it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the exit
        raise SystemExit(EXIT_PIPE) from None
    except OSError as error:  # no permission, a full disk
        print(f"osnet: {error}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None


def describe_commands() -> str:
    """The text of ``osnet --help``."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: osnet COMMAND [options]",
            "",
            "Find the same person, or thing, again: OSNet networks, embeddings, evaluation, search.",
            "",
            "commands:",
            *lines,
            "",
            "`osnet COMMAND --help` describes a command. `osnet --version` prints the version.",
        ]
    )


def load_command(name: str) -> None:
    """Import the module that defines a command, which registers it."""
    module = import_module(f"osnet.cli.{name.replace('-', '_')}")
    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and function.__doc__:
            function.__doc__ = join_lines(function.__doc__)


def join_lines(docstring: str) -> str:
    """Write the description of each argument on one line, because tyro prints line breaks as they are."""
    return re.sub(r"\n {8,}(?=\S)", " ", inspect.cleandoc(docstring))


def _run(args: list[str]) -> None:
    if "" in args:
        before = args[args.index("") - 1]
        print(f"osnet: the argument after {before!r} is empty; an unset variable of the shell?", file=sys.stderr)
        raise SystemExit(EXIT_ERROR)
    load_command(args[0])
    from osnet.cli.common import app, warn_once
    from osnet.errors import OsnetError

    try:
        with warn_once():
            app.cli(prog="osnet", args=args)
    except OsnetError as error:
        print(f"osnet: {error}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR) from None
