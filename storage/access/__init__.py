"""Who may do what, and how much: API keys, sealed keys, counted bytes."""
