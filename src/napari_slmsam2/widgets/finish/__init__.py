"""The dock widget Finish."""
