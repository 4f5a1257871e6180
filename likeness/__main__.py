"""`python -m likeness` is the `likeness` command."""

from likeness.cli import main

main()
