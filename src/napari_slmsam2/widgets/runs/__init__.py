"""Propagation runs: start, progress, quality."""
