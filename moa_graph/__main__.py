"""`python -m moa_graph` is `moa`."""

from moa_graph.cli import main

if __name__ == "__main__":
    main()
