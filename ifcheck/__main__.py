"""`python -m ifcheck` and the console script."""

from ifcheck.cli.app import app


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
