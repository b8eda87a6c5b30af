"""MLflow's own client, held to bounds; where uploads may go; the tags that MLflow shows."""
