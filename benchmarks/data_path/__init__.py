"""Measure the data path: its cost beside stock mining, its memory, and its result after kills."""
