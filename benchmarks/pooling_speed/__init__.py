"""What does anchor pooling cost beside mean pooling?"""
