"""The filters: one file, one decorator each. See `reinforced_data.curation.filter` for what a filter is."""
