"""gRPC-Web: Envoy between web pages and the server.
The server's address and limits come in; a child process that web pages can call goes out. No
message of the API is read here.
"""
