"""Images: what a data set is, and its batches."""

from udacisense.data.batches import Batches
from udacisense.data.images import DataSet, Images, load_dataset

__all__ = ["Batches", "DataSet", "Images", "load_dataset"]
