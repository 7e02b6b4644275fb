"""The pages in a real Chromium, with one browser and one `up` for all of them."""
