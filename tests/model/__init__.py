"""The protocol of one partition as a state machine that is explored in full; partitions are independent worlds."""
