"""The default model: a small short-long-memory network on an object-centred crop."""
