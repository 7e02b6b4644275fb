"""`make replay-image`: the image's recipe on this machine, without Docker and without Modal."""
