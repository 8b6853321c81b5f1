"""Self-attention caches: slots that hypotheses share, and one that concatenates."""
