"""`make replay-image` runs the image's recipe on this machine, without Docker and Modal."""
