"""What an auditor asks: verification by a trust file, the ledger's history, where each alias stands."""
