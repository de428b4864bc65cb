"""`python -m common.cli`: the same as `triptych`."""

from common.cli import main

main()
