"""The benchmarks: one folder for each claim, with its script or grids and its results. See README.md."""
