"""The runners: one file a runtime, and the table of them."""
