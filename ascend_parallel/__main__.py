"""``python -m ascend_parallel``: the command line, where its script is not on the PATH."""

from ascend_parallel.cli import main

main()
