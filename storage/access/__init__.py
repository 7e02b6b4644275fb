"""Access control and quotas: API keys, sealed partner keys, byte counts."""
