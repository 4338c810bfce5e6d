"""The config of a run: its keys, and how it is read from files."""
