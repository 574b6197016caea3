"""The pipeline, a file a stage."""
