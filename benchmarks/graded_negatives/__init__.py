"""Are the grades real, and the negatives negatives?"""
