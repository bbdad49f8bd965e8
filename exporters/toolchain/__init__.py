"""Environments of their own for converters that cannot share this one: each of them pins another torch."""
