"""What retrievers find, how an index grows, and how long clients of a server wait."""
