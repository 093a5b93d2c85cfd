"""Many jobs of one command: what is done is skipped, the rest runs on an engine."""
