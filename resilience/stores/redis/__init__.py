"""The store in Redis or Valkey. Needs the extra `redis`."""
