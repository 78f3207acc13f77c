"""`igpo estimate`: memory and hours of an experiment before it starts."""
