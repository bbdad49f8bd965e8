"""What static int8 rounds to, and what that does to the answers."""
