"""Compare engines that write for thousands of inputs: speed, cost, and losses after faults."""
