"""Run as `multigrain`, or as `python -m multigrain`."""

import sys


def main() -> int:
    """Run the command line; return the exit code. A package that is missing is told, and how to get it."""
    try:
        from multigrain.cli.main import main as run
    except ImportError as error:
        package = (error.name or "multigrain").partition(".")[0]
        advice = f"Run: {sys.executable} -m pip install --force-reinstall {package}"
        print(f"multigrain: a package that it needs cannot be imported: {error}. {advice}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
