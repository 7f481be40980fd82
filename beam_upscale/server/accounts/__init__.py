"""API keys, and the ledger with their charges and results.
Keys and charges come in; accepted keys, balances and kept results go out. Nothing here upscales an
image or imports gRPC.
"""
