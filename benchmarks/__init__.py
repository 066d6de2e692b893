"""Every published number comes out of a script here, with its machine and date."""
