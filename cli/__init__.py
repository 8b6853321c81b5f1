"""The ``seq2edge`` command. One file per subcommand: ``add_arguments`` and ``run``."""
