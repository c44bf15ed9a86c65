"""What we change in the kernel, and undo: policy routing, and an nftables table of our own."""
