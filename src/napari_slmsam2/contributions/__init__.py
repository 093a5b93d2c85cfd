"""Readers, writers and sample data of the napari manifest, without Qt and torch.

Large libraries are imported on use.
"""
