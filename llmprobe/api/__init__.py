"""The verbs of the Python interface; their keywords are those of the config file."""
