"""Drawings: records in, pictures out; each says in words what it shows and keeps its figures beside it."""
