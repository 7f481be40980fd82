"""Keys, their charges, and the ledger that holds both."""
