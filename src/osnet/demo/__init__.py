"""The demo. ``run_demo`` finds painted people in painted footage; ``comparison`` trains and compares two networks."""

from osnet.demo.painted_search import FULL, QUICK, DemoFindings, run_demo

__all__ = ["FULL", "QUICK", "DemoFindings", "run_demo"]
