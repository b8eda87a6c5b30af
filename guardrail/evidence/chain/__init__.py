"""Whether the stages' statements make one chain about one adapter, and what each must bind."""
