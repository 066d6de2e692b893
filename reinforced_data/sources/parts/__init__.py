"""What several sources share: rows of one place, caption columns, tars, Parquet row groups."""
