"""Programs that use what the pipeline made."""
