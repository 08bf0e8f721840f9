"""What the language model is asked in a run, how its answers are kept, and what they cost."""
