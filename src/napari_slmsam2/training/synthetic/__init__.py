"""Synthetic labelled stacks."""
