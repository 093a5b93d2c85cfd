"""Propagation of masks through a volume. Runs headless: no napari, no Qt."""
