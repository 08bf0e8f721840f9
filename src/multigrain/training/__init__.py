"""Coarse-to-fine training on graded tuples."""
