"""A process that writes numbered lines to its standard error until it is ended, some thousand a second."""

import itertools
import sys
import time

for number in itertools.count():
    sys.stderr.write(f"{number:06}\n")
    if number % 100 == 0:
        time.sleep(0.01)
