"""Find documents: BM25, and mining of hard negatives at each grade."""
