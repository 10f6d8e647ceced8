"""The policies: one room a layer. Each decides on (settings, state, now) and knows nothing of frameworks, threads or loops."""
