/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VPNMASQ_COUNT_H
#define VPNMASQ_COUNT_H

#include "parse.h"

/* Write down what leaves; user space reads it where it is. */
static __always_inline void tally(const struct packet *p, struct flow *flow, __u64 now, __u64 packets, __u64 octets)
{
	__sync_fetch_and_add(&flow->packets, packets);
	__sync_fetch_and_add(&flow->octets, octets);
	flow->last_seen = now;
	if (flow->kind == KIND_ESP)
		flow->sequence = bpf_ntohl(((struct esp_header *)p->payload)->sequence);
}

#endif
