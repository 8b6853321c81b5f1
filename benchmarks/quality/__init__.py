"""Quality of a bundle's outputs: metrics with intervals, and variants against a reference."""
