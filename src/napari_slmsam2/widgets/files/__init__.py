"""Saving, opening, autosave and recovery."""
