"""The dock widget Adapt."""
