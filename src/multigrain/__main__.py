"""Run as `python -m multigrain`."""

from multigrain.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
