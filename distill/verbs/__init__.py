"""The verbs: one module and one function each, same names and arguments as on the command line."""
