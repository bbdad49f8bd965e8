"""The ``gate`` command: a bundle against its requirements."""
