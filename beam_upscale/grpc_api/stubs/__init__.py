"""The API's messages, generated from `protos/` by `make protos`; only `pool` is written by hand."""
