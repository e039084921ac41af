"""The coordinator: watches heartbeats, buries the dead, offers their sessions, keeps the leases."""
