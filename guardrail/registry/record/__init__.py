"""What a client writes to MLflow: runs, logged models, versions, candidates."""
