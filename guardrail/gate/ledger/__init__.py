"""The server's ledger: every worker writes it, and every decision rests on what it adds up to."""
