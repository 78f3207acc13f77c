"""The Ray that a run starts or joins: its beginning, what watches it, its end."""
