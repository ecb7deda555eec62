"""osnet serve."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from osnet.cli.common import Texts, app
from osnet.errors import DataError, require_extra


@app.command
def serve(
    archives: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="ARCHIVE")],
    *,
    host: str = "127.0.0.1",
    port: int = 8750,
    public_name: Texts = (),
    tls: bool = False,
    state: str | None = None,
    calibration: tuple[Path, ...] = (),
    footage: tuple[Path, ...] = (),
    attributes: str | None = None,
    zone: str = "UTC",
    max_upload_mb: int = 32,
    allow_private_sources: bool = False,
    detector: str = "motion",
    device: str = "auto",
) -> None:
    """Serve archives and galleries as a page and an HTTP API, with accounts, an audit log, retention and erasure.

    The first start prints a link, valid once, that makes the first administrator. Other addresses than 127.0.0.1 are
    refused before there is an account.

    Args:
        archives: folders of archives and galleries, made with the same weights.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        public_name: further host names that requests may be for, as behind a proxy.
        tls: a proxy in front speaks HTTPS; cookies are then sent by HTTPS only.
        state: the folder of accounts, audit log, cases and jobs; default: the first archive's name with .service. Or
            postgresql://user@host/database; the default folder then holds temporary files only.
        calibration: files of `osnet calibrate --fpr RATE --out FILE`, which say what a score means.
        footage: folders where footage, and pictures of galleries, are looked for if they were moved since.
        attributes: weights that predict attributes, for searches by description.
        zone: time zone of the site, for weekdays and hours, such as Europe/Berlin.
        max_upload_mb: largest request in megabytes.
        allow_private_sources: live sources may have addresses of private networks, as cameras mostly do.
        detector: detector of live sources, as for `osnet video index`.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    for module in ("fastapi", "uvicorn", "argon2", "jinja2", "multipart", "prometheus_client"):
        require_extra(module, "service")
    import uvicorn

    from osnet.service.app import make_app
    from osnet.service.core import Service, ServiceOptions
    from osnet.service.database import POSTGRES

    first = archives[0].resolve() if archives else Path()
    on_postgres = state is not None and state.startswith(POSTGRES)
    if state is not None and "://" in state and not on_postgres:
        raise DataError(f"--state {state.partition('://')[0]}://...: give a folder, or an address postgresql://...")
    if max_upload_mb < 1:
        raise DataError(f"--max-upload-mb {max_upload_mb} must be at least 1")
    for place in footage:
        if not place.is_dir():
            raise DataError(f"--footage {place} is not a folder")
    if Path(detector).suffix.lower() == ".txt":
        raise DataError(f"--detector {detector}: a file of boxes belongs to one video, not to live sources")
    folder = first.with_name(first.name + ".service") if state is None or on_postgres else Path(state)
    options = ServiceOptions(
        archives=archives,
        state=folder,
        database=state if on_postgres else None,
        host=host,
        port=port,
        public_name=public_name,
        tls=tls,
        calibration=calibration,
        footage=footage,
        attributes=attributes,
        zone=zone,
        device=device,
        max_upload_bytes=max_upload_mb << 20,
        allow_private_sources=allow_private_sources,
        detector=detector,
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it would log each byte of a broken upload
    service = Service(options)
    service.check_address()
    service.database.claim()  # now, so that a second service ends with a clear line
    key = service.accounts.make_setup_link()
    config = uvicorn.Config(
        make_app(service),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        forwarded_allow_ips="127.0.0.1" if tls else None,
        proxy_headers=tls,
    )
    crops = sum(len(gallery.ids) for gallery in service.library.galleries.values())
    counts = {"tracklets": len(service.library) - crops, "crops": crops}
    shown = {"tracklets": service.library.archives, "crops": service.library.galleries}
    what = " and ".join(f"{count} {kind}" for kind, count in counts.items() if shown[kind])
    run_server(config, lambda bound: _tell(host, bound, key, what))


def run_server(config: Any, tell: Callable[[int], None]) -> None:
    """Run uvicorn; ``tell`` gets the port once it listens."""
    import uvicorn

    class Telling(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                tell(self.servers[0].sockets[0].getsockname()[1])

    Telling(config).run()


def _tell(host: str, port: int, key: str | None, what: str) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"{what} at {address}", flush=True)
    if key is not None:
        print(f"Make the first administrator (once, within a day): {address}/setup?key={key}", flush=True)
