"""One archive for a device: bundle, runtime, pins, installer, service."""
