"""Serves a retriever to many clients."""
