"""Data sets: Synapse layout, NIfTI, image folders, built-in phantoms; and what brings images to a network and back."""

from autocompress.data.dataset import Dataset, FloatArray, LabelArray, SliceSet, Split, Volume
from autocompress.data.opening import open_dataset

__all__ = ["Dataset", "FloatArray", "LabelArray", "SliceSet", "Split", "Volume", "open_dataset"]
