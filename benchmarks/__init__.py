"""Latency, memory and comparisons with peers."""
