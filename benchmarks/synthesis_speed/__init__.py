"""Which engine writes for thousands of inputs, at what cost, and what is left after faults?"""
