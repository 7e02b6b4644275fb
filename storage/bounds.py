"""The numbers that a setting may have: finite, and small enough that no computation with them overflows."""

from typing import Annotated

from pydantic import Field

LARGEST_COUNT = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exactly."""
LONGEST_S = 20 * 24 * 3600
"""The longest wait of a process. The system counts the milliseconds of a wait in 31 bits, 24 days."""
LONGEST_DAYS = 36_500
"""The longest retention, a hundred years. Dates end with the year 9999."""
LARGEST_AMOUNT = 1e6
"""The largest number of any other kind: a rate, a price, a factor."""
LEAST = 1e-9
"""The smallest number that is not zero, so that one divided by it is no infinity."""

Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Seconds = Annotated[float, Field(ge=LEAST, le=LONGEST_S, allow_inf_nan=False)]
WholeSeconds = Annotated[int, Field(ge=1, le=LONGEST_S)]
Days = Annotated[float, Field(ge=LEAST, le=LONGEST_DAYS, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=LEAST, le=LARGEST_AMOUNT, allow_inf_nan=False)]
AmountOrZero = Annotated[float, Field(ge=0, le=LARGEST_AMOUNT, allow_inf_nan=False)]
