"""``python -m osnet.cli`` is ``osnet``."""

from osnet.cli import main

main()
