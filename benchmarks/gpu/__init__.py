"""The proof on a GPU: what runs, how fast, and how much memory it takes (docs/gpu.md)."""
