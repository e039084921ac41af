"""HTTP as daemon and sidecar both serve it: one way to accept, one set of bounds, one gate, one rule of access, one status page."""
