"""What a bundle's outputs are worth: metrics with intervals, and variants against a reference."""
