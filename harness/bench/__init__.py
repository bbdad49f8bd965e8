"""The ``bench`` command: which cells, in which order, and what their times say."""
