"""One module per kind of teacher; each registers how such teachers are named and built."""
