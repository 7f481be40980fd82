"""The API's messages, generated from `protos/` by `make protos`.
Bytes come in; messages go out, and the other way round. Only `pool` is written by hand: nothing
else is to be changed here.
"""
