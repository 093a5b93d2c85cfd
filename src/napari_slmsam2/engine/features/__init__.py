"""Measurements on slices and masks that the classical and the compact models share."""
