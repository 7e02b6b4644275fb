"""A submission on its way in: what is checked before anything is stored, and how it is stored."""
