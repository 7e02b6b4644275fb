"""Whatever strangers hand in: their URLs and their files."""
