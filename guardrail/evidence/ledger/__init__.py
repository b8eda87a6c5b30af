"""The append-only ledger: its entries, its file, and what its entries add up to."""
