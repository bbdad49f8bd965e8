"""One cell: one file measured in one process of its own."""
