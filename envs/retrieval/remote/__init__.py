"""Retrievers that ask a server: one of the wire format, or a web search."""
