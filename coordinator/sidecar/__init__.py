"""The sidecar: the library's abilities over HTTP on this machine, for workers in any language."""
