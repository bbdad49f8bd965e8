"""The runners, which open files: one file a runtime, and the table of them."""
