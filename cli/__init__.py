"""The ``seq2edge`` command. One file a subcommand: ``add_arguments`` and ``run``."""
