"""The ``report`` command: what was recorded, as one document."""
