"""Who writes a run's log lines down, one a file; registry.LOG_WRITERS has them by name, and log.writers picks."""
