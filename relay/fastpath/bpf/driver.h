/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The same in a network card's driver (XDP), before there is a socket buffer: what is of a flow, ordinary, and
 * leaves by a driver that takes frames from others'. All else goes on to tc, where it finds the same flows.
 */
#ifndef VPNMASQ_DRIVER_H
#define VPNMASQ_DRIVER_H

#include <linux/if_ether.h>

#include "count.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"
#include "table.h"

/* Whether a frame is for the interface that it has come to, which is not in XDP's own words. */
static __always_inline int is_for_us(const struct xdp_md *xdp, const struct ethhdr *ethernet)
{
	const __u64 interface = xdp->ingress_ifindex;
	const struct station *station = bpf_map_lookup_elem(&stations, &interface);

	return station && station->first == *(__be32 *)ethernet->h_dest &&
	       station->last == *(__be16 *)&ethernet->h_dest[4];
}

/* Find the headers of a frame. Returns 0, or -1 for what tc is to have: VLAN tags, too. */
static __always_inline int parse_frame(struct xdp_md *xdp, struct packet *p)
{
	struct ethhdr *ethernet = (void *)(long)xdp->data;

	p->ip = (struct iphdr *)(ethernet + 1);
	p->payload = p->ip + 1;
	p->end = (void *)(long)xdp->data_end;
	if (!HAS(p, struct udp_header, 0) || ethernet->h_proto != bpf_htons(ETH_P_IP))
		return -1;
	if (*(__u8 *)p->ip != VERSION_4_IHL_5 || p->ip->frag_off & bpf_htons(IS_FRAGMENT))
		return -1;
	p->total = bpf_ntohs(p->ip->tot_len);
	return p->total < sizeof(struct iphdr) || ETH_HLEN + p->total > bpf_xdp_get_buff_len(xdp) ? -1 : 0;
}

/* Cut off what Ethernet fills up short frames with; that is not part of the packet. Returns 0, or -1 for tc's. */
static __always_inline int cut(struct xdp_md *xdp, struct packet *p)
{
	const int more = (int)bpf_xdp_get_buff_len(xdp) - ETH_HLEN - (int)p->total;

	if (!more)
		return 0;
	return bpf_xdp_adjust_tail(xdp, -more) || parse_frame(xdp, p) ? -1 : 0;
}

/*
 * Whether no checksum may be an unfinished one: from a virtual machine or another namespace they are
 * (CHECKSUM_PARTIAL), and nothing here would tell.
 */
static __always_inline int is_whole(const struct packet *p, __u16 kind)
{
	if (kind == KIND_NATT || kind == KIND_UDP)
		return !((const struct udp_header *)p->payload)->check;
	return kind == KIND_GRE || kind == KIND_ESP;
}

/* Whether the way out takes the packet, and from a driver. */
static __always_inline int takes(struct xdp_md *xdp, const struct packet *p, const struct hop *hop)
{
	struct {
		__u32 nothing;
		__u32 length;
	} __attribute__((aligned(8))) out;

	out.length = p->total;
	return hop->interface && hop->means == MEANS_DRIVER && p->total <= hop->mtu &&
	       !bpf_check_mtu(xdp, hop->interface, &out.length, 0, 0);
}

/* Make the packet what it is to leave as. */
static __always_inline void rewrite_frame(struct packet *p, const struct flow *flow)
{
	if (flow->kind == KIND_GRE)
		((struct gre_header *)p->payload)->call_id = bpf_htons(bpf_ntohl(flow->label));
	else if (flow->kind == KIND_NATT || flow->kind == KIND_UDP)
		((struct udp_header *)p->payload)->ports = flow->label;
	rewrite_ip(p->ip, flow);
}

static __always_inline int forward_frame(struct xdp_md *xdp, enum side side)
{
	struct control *control;
	struct packet p;
	struct flow *flow;
	struct hop *hop;
	__be32 *ethernet;
	__u32 index = 0;
	__u64 now;

	if (parse_frame(xdp, &p))
		return XDP_PASS;
	control = bpf_map_lookup_elem(&controls, &index);
	if (!control)
		return XDP_PASS;
	index = lookup(&p, side, control);
	flow = bpf_map_lookup_elem(&flows, &index);
	if (!flow || !is_for_us(xdp, (struct ethhdr *)p.ip - 1))
		return XDP_PASS;
	now = bpf_ktime_get_coarse_ns();
	if (now > control->until)
		return XDP_PASS;
	index = flow->hop;
	hop = bpf_map_lookup_elem(&hops, &index);
	if (!hop)
		return XDP_PASS;

	if (p.ip->ttl < 2 || ip_sum(p.ip) != 0xffff || parse_payload(&p, flow->kind))
		return XDP_PASS;
	if (!is_whole(&p, flow->kind) || !takes(xdp, &p, hop) || cut(xdp, &p))
		return XDP_PASS;

	tally(&p, flow, now, 1, p.total);
	rewrite_frame(&p, flow);
	ethernet = (__be32 *)((struct ethhdr *)p.ip - 1);
	ethernet[0] = hop->header[0];
	ethernet[1] = hop->header[1];
	ethernet[2] = hop->header[2];
	return bpf_redirect(hop->interface, 0);
}

#endif
