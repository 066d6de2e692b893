"""One module per kind of source; each registers an opener under the scheme or suffix that names it."""
