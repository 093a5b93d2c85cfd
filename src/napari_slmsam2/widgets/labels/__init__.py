"""The dock widget Label table."""
