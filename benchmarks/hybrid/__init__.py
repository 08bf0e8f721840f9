"""Measure the hybrid of cosine and BM25 beside either."""
