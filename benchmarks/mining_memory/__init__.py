"""How much memory and time do the data stage and mining take for a million passages?"""
