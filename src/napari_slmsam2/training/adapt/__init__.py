"""Adapting a trained network to a few labelled volumes."""
