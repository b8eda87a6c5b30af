"""The MLflow server with the gate in it: how it starts, its routes, what it answers."""
