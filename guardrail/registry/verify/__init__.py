"""Whether a registry holds exactly what was signed, for reasons that hold."""
