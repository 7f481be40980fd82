"""gRPC-Web: Envoy between web pages and the server."""
