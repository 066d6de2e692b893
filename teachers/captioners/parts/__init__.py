"""What several captioners share: decoding, and cleaning what was written."""
