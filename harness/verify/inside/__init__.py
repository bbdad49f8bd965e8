"""What answers cannot show: weights, first input and zero points of a file."""
