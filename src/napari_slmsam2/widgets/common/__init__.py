"""Parts that both dock widgets use."""
