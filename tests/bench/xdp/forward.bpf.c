// SPDX-License-Identifier: GPL-2.0-or-later
/* The fast path's programs, and beside them the end of the wire behind a network card. */
#include "../../../relay/fastpath/bpf/vpnmasq.bpf.c"

/* A host that has its frames in the driver, as what a network card has sent is out of the machine. */
SEC("xdp")
int swallow(struct xdp_md *xdp __attribute__((unused)))
{
	return XDP_DROP;
}
