"""Ways of talking to a policy: each implements `envs.search.protocol.Protocol`."""
