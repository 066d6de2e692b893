"""The filters: one file, one decorator each. See `reinforced_data.filter` for what a filter is."""
