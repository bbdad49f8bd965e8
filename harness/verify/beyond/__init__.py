"""What the label of a clean photo does not show: how sure an answer is, other things, photos as phones take them."""
