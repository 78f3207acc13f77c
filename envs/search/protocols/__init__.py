"""Protocols, the ways of talking to a policy; each implements `envs.search.protocols.base.Protocol`."""
