"""How fast is a step of training beside sentence-transformers' own trainer?"""
