"""The core loop: seeds are propagated through a volume along a plan, by any segmenter."""
