"""Where it broke: the first step on the way from the eager model to the file, and the first layer inside it."""
