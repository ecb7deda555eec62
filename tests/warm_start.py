"""``osnet`` and ``python -c`` as forks of one process that has imported the libraries, which takes seconds.

The commands are processes with their own folder, environment, streams and exit status. ``osnet`` itself is imported by
each of them, because it computes otherwise in a forked process. This file, as a script, is the process that is forked.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = ["accelerate", "numba", "torch._dynamo", "torch.utils.tensorboard", "torchvision"]
"""Not ``onnxruntime``, which starts a thread when it is imported: forks would wait for what it holds."""
COMMAND = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    given = json.dumps([os.getcwd(), dict(os.environ), [{name!r}, *sys.argv[1:]]]).encode()
    socket.send_fds(server, [len(given).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(given)
    sys.exit(server.recv(1)[0])
"""


@contextlib.contextmanager
def warm_commands() -> Iterator[Path]:
    """A folder for the front of ``PATH``, with the commands ``osnet`` and ``python``. One runs at a time."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/server"
        for name in ("osnet", "python"):
            path = Path(folder) / name
            path.write_text(COMMAND.format(python=sys.executable, address=address, name=name))
            path.chmod(0o755)
        with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                yield Path(folder)
            finally:
                server.terminate()


def serve(address: str) -> list[str]:
    """Start a fork for each command. Returns in the fork, whose streams are then the command's: what to run."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            with listener.accept()[0] as client:
                size, streams, *_ = socket.recv_fds(client, 8, 3)
                given = client.makefile("rb").read(int.from_bytes(size, "big"))
                child = os.fork()
                if not child:
                    break
                for stream in streams:
                    os.close(stream)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                client.sendall(bytes([status & 255]))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # the old ones know whether theirs could seek
        setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    folder, environment, words = json.loads(given)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return words  # type: ignore[no-any-return]


def run(words: list[str]) -> int:
    """The exit status of a command."""
    sys.argv = words
    try:
        if words[0] == "osnet":
            from osnet.cli import main

            main()
        else:
            exec(compile(words[2], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as stopped:
        return int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.freeze()
    sys.path[0] = ""
    status = run(serve(sys.argv[1]))
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)  # taking all the modules apart would take as long as importing them
