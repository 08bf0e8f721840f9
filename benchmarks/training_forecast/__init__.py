"""How near is what `check` says of a training?"""
