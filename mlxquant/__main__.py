"""`python -m mlxquant`: the same as the `mlxquant` command."""

from mlxquant.cli import main

if __name__ == "__main__":
    main()
