"""Real servers in processes of their own, and what loads them."""
