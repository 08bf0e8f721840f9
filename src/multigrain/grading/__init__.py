"""Is each candidate really a negative, and of which grade?"""
