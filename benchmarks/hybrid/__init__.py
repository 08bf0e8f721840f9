"""What is a search by meaning and words at once worth beside either?"""
