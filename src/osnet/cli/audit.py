"""osnet audit verify."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from osnet.cli.common import EXIT_FOUND_TROUBLE, app
from osnet.errors import DataError

audit_app = SubcommandApp()
app.command(audit_app, name="audit", help="Check the audit log of a service.")


@audit_app.command(name="verify")
def audit_verify(
    state: Annotated[str, Positional, tyro.conf.arg(metavar="STATE")], *, last_hash: str | None = None
) -> None:
    """Recompute the audit log's chain of hashes. The exit code is 1 if an entry is missing or was changed.

    Args:
        state: the folder of the service's state, or postgresql://user@host/database.
        last_hash: a hash that was printed earlier; it must be in the chain, so that a log that was cut is noticed.
    """
    from osnet.service.audit import verify
    from osnet.service.database import POSTGRES, STATE_FILE, open_database

    if not state.startswith(POSTGRES) and not (Path(state) / STATE_FILE).is_file():
        raise DataError(f"{state} is not the state of a service: it holds no {STATE_FILE}")
    database = open_database(state if state.startswith(POSTGRES) else Path(state) / STATE_FILE)
    found = verify(database)
    faults = list(found.faults)
    if last_hash is not None and database.one("SELECT seq FROM audit WHERE hash = ?", last_hash) is None:
        faults.append(f"no entry has the hash {last_hash}: the log was cut or replaced")
    database.close()
    print(f"{found.entries} entries; last hash {found.last_hash}")
    print("the chain is whole" if not faults else "\n".join(faults))
    if faults:
        raise SystemExit(EXIT_FOUND_TROUBLE)
