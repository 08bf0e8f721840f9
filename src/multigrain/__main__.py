"""Run as `multigrain`, or as `python -m multigrain`."""

import sys


def main() -> int:
    """Run the command line and return its exit code; if a package is missing, say how to install it."""
    try:
        from multigrain.cli.main import main as run
    except ImportError as error:
        package = (error.name or "multigrain").partition(".")[0]
        advice = f"Run: {sys.executable} -m pip install --force-reinstall {package}"
        print(f"multigrain: a required package cannot be imported: {error}. {advice}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
