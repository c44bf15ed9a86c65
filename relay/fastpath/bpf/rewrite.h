/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VPNMASQ_REWRITE_H
#define VPNMASQ_REWRITE_H

#include "parse.h"

/* Addresses and ports as a UDP checksum covers them. */
struct covered {
	__u64 addresses; /* both (stack.h) */
	__be32 ports;
};

/*
 * Follow a change of addresses and ports in a UDP checksum. Two steps, because in an unfinished one
 * (CHECKSUM_PARTIAL: from a local or virtual machine, hardware is to finish it) only the addresses count so
 * far. No checksum (0) stays none, and then a sum that hardware made of the whole packet is put right instead.
 */
static __always_inline void follow(struct __sk_buff *skb, __u32 check_at, __be16 check,
				   struct covered *old, struct covered *new)
{
	__s64 addresses = bpf_csum_diff((__be32 *)&old->addresses, 8, (__be32 *)&new->addresses, 8, 0);
	__s64 ports = bpf_csum_diff(&old->ports, 4, &new->ports, 4, 0);

	if (!check) {
		bpf_csum_update(skb, ports);
		return;
	}
	bpf_l4_csum_replace(skb, check_at, 0, addresses, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0);
	if (old->ports != new->ports)
		bpf_l4_csum_replace(skb, check_at, 0, ports, BPF_F_MARK_MANGLED_0);
}

static __always_inline void rewrite_ip(struct iphdr *ip, const struct flow *flow)
{
	ip->ttl--;
	ip->saddr = flow->source;
	ip->daddr = flow->target;
	ip->check = 0;
	ip->check = ~ip_sum(ip);
}

/* Make the packet what it is to leave as. The caller has looked at everything; pointers are void after this. */
static __always_inline void rewrite(struct __sk_buff *skb, __u32 offset, struct packet *p, const struct flow *flow)
{
	struct iphdr *ip = p->ip;
	struct covered old = { .addresses = two_words(ip->saddr, ip->daddr) };
	struct covered new = { .addresses = two_words(flow->source, flow->target), .ports = flow->label };

	rewrite_ip(ip, flow);
	if (flow->kind == KIND_GRE) {
		struct gre_header *gre = p->payload;
		/* The word with the Call ID, whose other half does not change. */
		__be32 before = *(__be32 *)&gre->payload;

		gre->call_id = bpf_htons(bpf_ntohl(flow->label));
		bpf_csum_update(skb, bpf_csum_diff(&before, 4, (__be32 *)&gre->payload, 4, 0));
	} else if (flow->kind == KIND_NATT || flow->kind == KIND_UDP) {
		struct udp_header *udp = p->payload;

		old.ports = udp->ports;
		udp->ports = flow->label;
		follow(skb, offset + sizeof(*ip) + offsetof(struct udp_header, check), udp->check, &old, &new);
	}
}

#endif
