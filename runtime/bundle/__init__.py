"""The bundle: its manifest, how it is read, and how a folder is written whole or not at all."""
