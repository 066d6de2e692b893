"""The last linear map of a tower: where it lies, and how it is fitted in closed form."""
