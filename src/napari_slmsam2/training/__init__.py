"""Training of compact networks on generated stacks and labelled volumes."""
