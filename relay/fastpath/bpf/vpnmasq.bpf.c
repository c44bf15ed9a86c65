// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Forwards the packets of flows that user space has told us of; all others are none of our business and go
 * on as if we were not here, also everything that is unusual in a packet of a known flow.
 *
 * It runs where packets enter an interface (tc ingress; besides, in the driver: driver.h), before netfilter and
 * routing. There is one program for each side of the gateway and each form of link layer, so that nothing has to
 * be looked up for that.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "count.h"
#include "driver.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"
#include "table.h"

/* The next program, or the stack: user space will see it if it is ours. */
#define PASS TC_ACT_UNSPEC

#define AF_INET 2

/* Whether the way out takes the packet as it is: RFC 1812 4.3.3.3 has user space answer if it does not. */
static __always_inline int fits(struct __sk_buff *skb, const struct packet *p, __u16 kind, const struct hop *hop)
{
	/* The second half of eight octets, which a helper may write to (stack.h). */
	struct {
		__u32 nothing;
		__u32 length;
	} __attribute__((aligned(8))) out;

	out.length = p->total;

	if (skb->gso_size) {
		/* Merged datagrams are taken apart again on their way out; nothing else comes merged. */
		if (kind != KIND_NATT && kind != KIND_UDP)
			return 0;
		out.length = sizeof(struct iphdr) + sizeof(struct udp_header) + skb->gso_size;
	}
	/* The link itself is asked, too: it may be another one, or gone, before user space has heard of that. */
	return out.length <= hop->mtu && !bpf_check_mtu(skb, hop->interface, &out.length, 0, 0);
}

static __always_inline void count(const struct __sk_buff *skb, const struct packet *p, struct flow *flow, __u64 now)
{
	__u64 packets = 1, octets = p->total;

	if (skb->gso_segs > 1) {
		packets = skb->gso_segs;
		octets += (packets - 1) * (sizeof(struct iphdr) + sizeof(struct udp_header));
	}
	tally(p, flow, now, packets, octets);
}

/*
 * Whether nothing is left to be done to a packet at the way out, which the other end of a veth has behind it: no
 * checksum to be finished, and no datagrams to be taken apart.
 */
static __always_inline int is_finished(const struct __sk_buff *skb, const struct udp_header *udp, __u16 kind)
{
	if (kind == KIND_GRE || kind == KIND_ESP)
		return 1;
	return kind != KIND_IP && !skb->gso_size && !udp->check;
}

/* Send a packet with the Ethernet header that is ready for its next hop. */
static __always_inline int send(struct __sk_buff *skb, const struct hop *hop, __u16 kind)
{
	void *data = (void *)(long)skb->data;
	const struct udp_header *udp = data + ETH_HLEN + sizeof(struct iphdr);
	__be32 *ethernet = data;

	if ((void *)(udp + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	ethernet[0] = hop->header[0];
	ethernet[1] = hop->header[1];
	ethernet[2] = hop->header[2];
	if (hop->means == MEANS_PEER && is_finished(skb, udp, kind))
		return bpf_redirect_peer(hop->interface, 0);
	return bpf_redirect(hop->interface, 0);
}

static __always_inline int forward(struct __sk_buff *skb, enum side side, __u32 offset)
{
	union {
		struct bpf_redir_neigh fields;
		__u64 words[3];
	} neighbour = {};
	struct control *control;
	struct packet p;
	struct flow *flow;
	struct hop *hop;
	__u32 index = 0;
	__u64 now;

	/* Not of a VLAN on top of this interface, nor overheard by it. */
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return PASS;
	if (parse_ip(skb, offset, &p))
		return PASS;
	control = bpf_map_lookup_elem(&controls, &index);
	if (!control)
		return PASS;
	index = lookup(&p, side, control);
	flow = bpf_map_lookup_elem(&flows, &index);
	if (!flow)
		return PASS;
	now = bpf_ktime_get_coarse_ns();
	if (now > control->until)
		return PASS;
	index = flow->hop;
	hop = bpf_map_lookup_elem(&hops, &index);
	if (!hop || !hop->interface)
		return PASS;

	if (p.ip->ttl < 2 || p.total < sizeof(struct iphdr) || offset + p.total > skb->len)
		return PASS;
	if (ip_sum(p.ip) != 0xffff || parse_payload(&p, flow->kind) || !fits(skb, &p, flow->kind, hop))
		return PASS;
	if (offset + p.total < skb->len) {
		/* Ethernet fills up short frames; that is not part of the packet. */
		if (skb->gso_size || bpf_skb_change_tail(skb, offset + p.total, 0) || parse_ip(skb, offset, &p))
			return PASS;
	}

	count(skb, &p, flow, now);
	if (offset && hop->means != MEANS_NEIGHBOUR) {
		rewrite(skb, offset, &p, flow);
		return send(skb, hop, flow->kind);
	}
	/* nh_family, ipv4_nh */
	neighbour.words[0] = two_words(AF_INET, hop->gateway ? hop->gateway : flow->target);
	rewrite(skb, offset, &p, flow);
	/* What follows takes away an Ethernet header, and throws away a packet that has none. */
	if (!offset && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return TC_ACT_SHOT;
	return bpf_redirect_neigh(hop->interface, &neighbour.fields, sizeof(neighbour.fields), 0);
}

SEC("tc")
int lan_ethernet(struct __sk_buff *skb)
{
	return forward(skb, SIDE_LAN, ETH_HLEN);
}

SEC("tc")
int wan_ethernet(struct __sk_buff *skb)
{
	return forward(skb, SIDE_WAN, ETH_HLEN);
}

/* Links without a header of their own: ppp, tun. */
SEC("tc")
int lan_plain(struct __sk_buff *skb)
{
	return forward(skb, SIDE_LAN, 0);
}

SEC("tc")
int wan_plain(struct __sk_buff *skb)
{
	return forward(skb, SIDE_WAN, 0);
}

/* In drivers: loaded only when asked for (fastpath.xdp). */
SEC("xdp")
int lan_driver(struct xdp_md *xdp)
{
	return forward_frame(xdp, SIDE_LAN);
}

SEC("xdp")
int wan_driver(struct xdp_md *xdp)
{
	return forward_frame(xdp, SIDE_WAN);
}

char LICENSE[] SEC("license") = "GPL";
