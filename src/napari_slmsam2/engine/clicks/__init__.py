"""Masks from points and boxes, for models without a prompt encoder."""
