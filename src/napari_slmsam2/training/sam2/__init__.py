"""Fine-tuning of SAM 2.1 and SLM-SAM 2."""
