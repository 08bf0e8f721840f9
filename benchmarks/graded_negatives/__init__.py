"""Measure the grades and the false negatives with independent judges."""
