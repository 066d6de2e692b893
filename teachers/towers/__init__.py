"""Teachers made of two frozen towers with alignment heads trained over them."""
