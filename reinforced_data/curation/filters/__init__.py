"""The filters: one file, one decorator each. What a filter is, `curation.filter` says."""
