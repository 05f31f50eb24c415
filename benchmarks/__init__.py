"""`make bench`: a scripted upstream, the peers and this product, one after the other, in one table."""
