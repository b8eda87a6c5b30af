"""What persons order of a gated server: votes, rollbacks, revocations."""
