"""Plans are opened and run on the GPU of this machine."""
