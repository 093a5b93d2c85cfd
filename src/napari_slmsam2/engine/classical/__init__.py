"""Models without weights: dense optical flow and shape interpolation."""
