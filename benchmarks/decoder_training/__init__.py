"""Does a language model become an embedding model on two cores within a quarter of an hour?"""
