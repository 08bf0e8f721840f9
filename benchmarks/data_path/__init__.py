"""What does the path of the data cost, from the files of a user to the graded tuples and the evaluation?"""
