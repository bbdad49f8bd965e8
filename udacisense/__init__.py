"""Compress an image classifier for a phone, and prove that what ships is what was trained."""

__version__ = "0.2.0"
