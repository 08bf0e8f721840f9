"""Queries, pairs and negatives written by a language model."""
