"""What was found: metrics, curves, tables, folders, saved probes."""
