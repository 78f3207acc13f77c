"""The runs of a real model on real text (docs/real_model.md): kept as tables, drawn from them."""
