"""Generation: the requests of a run to the language model, its answers, and their cost."""
