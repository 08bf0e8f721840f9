"""Generation: the requests of a run to the language model, the answers, and their cost."""
