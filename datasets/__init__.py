"""Detection and classification data: readers, packing, transforms and the joint sampler."""
