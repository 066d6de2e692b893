"""Sets that others reinforced (DataCompDR, DFNDR), imported as ones of ours."""
