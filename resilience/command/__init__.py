"""The command `resilience`: looks at configuration files before they go live. Needs the extra `cli`."""
