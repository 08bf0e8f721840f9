"""Candidates for negatives: written by a language model, or mined from the corpus."""
