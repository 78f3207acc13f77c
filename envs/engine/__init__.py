"""Rollout engines: requests in, sampled tokens and scores out. An engine knows no episode."""
