"""Pretraining of an image encoder for paper ECGs, distributed by Ray."""

__version__ = "0.1.0"
