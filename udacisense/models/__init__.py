"""The networks, their weights, and how one lies on disk."""

from udacisense.models.build import build_model, preset

__all__ = ["build_model", "preset"]
