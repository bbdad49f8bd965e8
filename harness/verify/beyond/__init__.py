"""What the label of a clean photo does not show: how sure an answer is."""
