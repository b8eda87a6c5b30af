"""A gated server as its clients ask it: tickets, the ledger, statements. The server is ``guardrail/gate``."""
