"""Runs child processes that work beside this one: starts, asks, replaces and ends them.
Messages and buffers of bytes come in; answers and errors go out. Nothing here knows what the
children do: `decoding` and `encoding` are kinds of them.

    parent                                child (`python -m` and a package with a `__main__`)
           <- ready, resident size -
           - request ->
           <- answers -                   and so on; it exits when its parent is gone

A `pool.ProcessPool` has several children, each of which serves many requests. Parent and child
exchange messages over a Unix socket (`connection`). Files, pixels and metadata of more than some
kilobytes lie in memory without a name (`sealed_memory`), of which only the descriptor is sent.
Children get none of their parent's secrets (`environment`). A child that is lost is replaced once
for a request (`children`).
"""
