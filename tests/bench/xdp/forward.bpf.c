// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The fast path's programs, and beside them what they would be in a network card's driver (XDP): the same flows,
 * looked at in the same way and rewritten to the same, but before there is a socket buffer. What is not of a flow,
 * or unusual, goes on to the programs of tc.
 *
 * Not a product's: it takes frames for any address, and leaves to tc what Ethernet has filled up.
 */
#include "../../../relay/fastpath/bpf/vpnmasq.bpf.c"

static __always_inline int has_way(struct xdp_md *xdp, const struct packet *p, const struct hop *hop)
{
	struct {
		__u32 nothing;
		__u32 length;
	} __attribute__((aligned(8))) out;

	out.length = p->total;
	return hop->interface && hop->means != MEANS_NEIGHBOUR && p->total <= hop->mtu &&
	       !bpf_check_mtu(xdp, hop->interface, &out.length, 0, 0);
}

static __always_inline void tally(const struct packet *p, struct flow *flow, __u64 now)
{
	__sync_fetch_and_add(&flow->packets, 1);
	__sync_fetch_and_add(&flow->octets, p->total);
	flow->last_seen = now;
	if (flow->kind == KIND_ESP)
		flow->sequence = bpf_ntohl(((struct esp_header *)p->payload)->sequence);
}

/* Whether it was done: a UDP checksum may be an unfinished one, and nothing here would tell. */
static __always_inline int change(const struct packet *p, const struct flow *flow)
{
	struct iphdr *ip = p->ip;

	if (flow->kind == KIND_GRE) {
		struct gre_header *gre = p->payload;

		gre->call_id = bpf_htons(bpf_ntohl(flow->label));
	} else if (flow->kind == KIND_NATT || flow->kind == KIND_UDP) {
		struct udp_header *udp = p->payload;

		if (udp->check)
			return 0;
		udp->ports = flow->label;
	}
	ip->ttl--;
	ip->saddr = flow->source;
	ip->daddr = flow->target;
	ip->check = 0;
	ip->check = ~ip_sum(ip);
	return 1;
}

static __always_inline int take(struct xdp_md *xdp, enum side side)
{
	struct ethhdr *ethernet = (void *)(long)xdp->data;
	__be32 *words = (__be32 *)ethernet;
	struct packet p;
	struct control *control;
	struct flow *flow;
	struct hop *hop;
	__u32 index = 0;
	__u64 now;

	p.ip = (struct iphdr *)(ethernet + 1);
	p.payload = p.ip + 1;
	p.end = (void *)(long)xdp->data_end;
	if (!HAS(&p, struct udp_header, 0) || ethernet->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if (*(__u8 *)p.ip != VERSION_4_IHL_5 || p.ip->frag_off & bpf_htons(IS_FRAGMENT))
		return XDP_PASS;
	p.total = bpf_ntohs(p.ip->tot_len);
	control = bpf_map_lookup_elem(&controls, &index);
	if (!control)
		return XDP_PASS;
	index = lookup(&p, side, control);
	flow = bpf_map_lookup_elem(&flows, &index);
	if (!flow)
		return XDP_PASS;
	now = bpf_ktime_get_coarse_ns();
	if (now > control->until)
		return XDP_PASS;
	index = flow->hop;
	hop = bpf_map_lookup_elem(&hops, &index);
	if (!hop)
		return XDP_PASS;

	if (p.ip->ttl < 2 || p.total < sizeof(struct iphdr) || (void *)p.ip + p.total != p.end)
		return XDP_PASS;
	if (ip_sum(p.ip) != 0xffff || parse_payload(&p, flow->kind) || !has_way(xdp, &p, hop))
		return XDP_PASS;
	if (!change(&p, flow))
		return XDP_PASS;
	tally(&p, flow, now);
	words[0] = hop->header[0];
	words[1] = hop->header[1];
	words[2] = hop->header[2];
	return bpf_redirect(hop->interface, 0);
}

SEC("xdp")
int lan_xdp(struct xdp_md *xdp)
{
	return take(xdp, SIDE_LAN);
}

SEC("xdp")
int wan_xdp(struct xdp_md *xdp)
{
	return take(xdp, SIDE_WAN);
}

/* A host that has its frames in the driver, as what a network card has sent is out of the machine. */
SEC("xdp")
int swallow(struct xdp_md *xdp __attribute__((unused)))
{
	return XDP_DROP;
}
