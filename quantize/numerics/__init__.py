"""Rounding of weights: to blocks, to channels, with GPTQ."""
