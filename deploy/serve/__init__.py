"""A small server over standard input and a socket, as packs run it."""
