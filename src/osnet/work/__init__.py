"""Work on many processes or machines: a list of items in a folder, and runners that work through it."""

from osnet.work.runners import Runner, run_work
from osnet.work.work_list import Quarantined, WorkList

__all__ = ["Quarantined", "Runner", "WorkList", "run_work"]
