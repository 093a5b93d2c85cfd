"""The core loop: seeds are carried through a volume along a plan, by any segmenter."""
