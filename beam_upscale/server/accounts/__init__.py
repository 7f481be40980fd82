"""API keys, and the ledger with their charges and results."""
