"""The functions of the Python interface; their keywords are keys of the config file."""
