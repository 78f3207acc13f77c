"""Ways of talking to a policy: each implements `envs.search.protocols.base.Protocol`."""
