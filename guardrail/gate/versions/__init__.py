"""What versions and aliases in MLflow's tables hold, as the ledger knows it, and how they are changed."""
