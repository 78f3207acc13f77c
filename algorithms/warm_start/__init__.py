"""Supervised fine-tuning of a model on demonstrations, before reinforcement learning: `igpo warm-start`."""
