"""Pairs and corpora: read, checked, split."""
