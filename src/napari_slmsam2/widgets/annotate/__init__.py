"""The dock widget Annotate."""
