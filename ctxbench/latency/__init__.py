"""What networks and operators really take: time, throughput and memory, with their uncertainty."""
