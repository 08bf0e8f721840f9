"""Compare distillation from embedding + BM25 with contrastive training on the same texts."""
