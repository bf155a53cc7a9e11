"""What a detector costs: parameters, FLOPs, time and memory, baseline beside enhanced."""
