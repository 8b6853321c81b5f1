"""What is done to which layer: schemes, weight formats, options, mixed precision."""
