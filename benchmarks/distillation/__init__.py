"""Does distillation from embedding + BM25 beat contrastive training on the same texts?"""
