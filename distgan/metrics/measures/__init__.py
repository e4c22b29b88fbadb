"""The metrics, one a file; registry.METRICS has them by name. Importing one imports no torch: settings are checked by
what a metric says of itself.
"""
