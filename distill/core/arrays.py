"""`Array`: a NumPy array of any type and shape; which they are, the docstrings say."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
