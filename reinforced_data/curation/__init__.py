"""What several filters share: neighbours, clusters, quotas, image hashes, concept matching, histograms."""
