"""What the toolkit costs: beside a hand-fused floor, beside its peers, and beside what is promised. `make bench` runs it."""
