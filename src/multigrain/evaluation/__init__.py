"""How good is the trained model, and how sure are we?"""
