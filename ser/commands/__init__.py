"""The subcommands of ``ser``: each module has ``add_arguments(parser)`` and ``run(arguments)``, its exit code."""
