"""One script for each claim, with its results as JSON."""
