"""What workers publish for the API: small objects that the newest writer wins."""
