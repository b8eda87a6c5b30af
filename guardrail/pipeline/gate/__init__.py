"""What a run and a gated server say to each other: the ticket, the attempt, signatures, candidates."""
