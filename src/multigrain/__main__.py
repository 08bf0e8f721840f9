"""Run as `python -m multigrain`."""

from multigrain.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
