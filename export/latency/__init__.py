"""How long a tower takes on a phone: measured, taken over from a relative, or predicted from published figures."""
