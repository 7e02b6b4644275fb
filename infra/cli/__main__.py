"""Entry point of `python -I comfyui_modal.py infra.cli`: Python runs a package by this name only."""

import sys

from infra.cli.root import main

if __name__ == "__main__":
    sys.exit(main())
