"""`python -m ctxbench`, and `torchrun -m ctxbench`."""

from ctxbench.cli import main

if __name__ == "__main__":
    main()
