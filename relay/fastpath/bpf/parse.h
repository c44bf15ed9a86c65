/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VPNMASQ_PARSE_H
#define VPNMASQ_PARSE_H

#include <linux/in.h>
#include <linux/ip.h>

#include "csum.h"
#include "flow.h"
#include "stack.h"

/* RFC 791 3.1 */
#define VERSION_4_IHL_5 0x45
#define IS_FRAGMENT 0x3fff /* More Fragments, or an offset */

/* RFC 2637 4.1: K is set, Ver is 1, the type is PPP; besides only S and A may be set */
#define GRE_PPTP 0x2001880b
#define GRE_SEQUENCE 0x10000000
#define GRE_ACKNOWLEDGMENT 0x00800000
/* What says whose it is: Ver and the type (protocols/gre/codec.py, is_pptp). */
#define GRE_IS_PPTP(word) (((word) & 0x0007ffff) == 0x0001880b)

/* Lower sequence numbers may begin a new Security Association: user space looks at them. */
#define ESP_FIRST_FEW 4

struct gre_header {
	__be32 word;
	__be16 payload;
	__be16 call_id;
};

struct esp_header {
	__be32 spi;
	__be32 sequence;
};

struct udp_header {
	__be32 ports;
	__be16 length;
	__be16 check;
};

/* The headers of a packet, as far as they are looked at. */
struct packet {
	struct iphdr *ip;
	void *payload;
	void *end;
	__u32 total; /* octets, as the IP header says */
};

#define HAS(p, type, after) ((p)->payload + (after) + sizeof(type) <= (p)->end)

/*
 * Find an IPv4 header that begins at an offset, and 8 octets after it. Returns 0, or -1 for what user space
 * is to have: options, fragments, and what is too short.
 */
static __always_inline int parse_ip(struct __sk_buff *skb, __u32 offset, struct packet *p)
{
	const __u32 least = offset + sizeof(struct iphdr) + sizeof(struct udp_header);

	/* Headers may be in pages of their own; what is shorter than this never is. */
	if ((void *)(long)skb->data + least > (void *)(long)skb->data_end &&
	    bpf_skb_pull_data(skb, least + sizeof(struct esp_header)))
		return -1;
	if ((void *)(long)skb->data + least > (void *)(long)skb->data_end)
		return -1;
	p->ip = (void *)(long)skb->data + offset;
	p->payload = p->ip + 1;
	p->end = (void *)(long)skb->data_end;
	if (*(__u8 *)p->ip != VERSION_4_IHL_5 || p->ip->frag_off & bpf_htons(IS_FRAGMENT))
		return -1;
	p->total = bpf_ntohs(p->ip->tot_len);
	return 0;
}

/* What the packet is recognised by; ``whole``: by its addresses alone. */
static __always_inline void write_key(const struct packet *p, enum side side, __be32 label, int whole, union key *key)
{
	key->words[0] = two_words(p->ip->saddr, p->ip->daddr);
	key->words[1] = two_words(label, bpf_htonl(p->ip->protocol << 24 | side << 16 | whole << 8));
}

/* What the packet is recognised by first; if it has a label that says anything, by that as well. */
static __always_inline void parse_key(const struct packet *p, enum side side, union key *key)
{
	const struct gre_header *gre = p->payload;
	const __u8 protocol = p->ip->protocol;

	if (protocol == IPPROTO_ESP || protocol == IPPROTO_UDP)
		write_key(p, side, *(__be32 *)p->payload, 0, key);
	else if (protocol == IPPROTO_GRE && GRE_IS_PPTP(bpf_ntohl(gre->word)))
		write_key(p, side, bpf_htonl(bpf_ntohs(gre->call_id)), 0, key);
	else
		write_key(p, side, 0, 1, key);
}

/*
 * Whether the header after IP is an ordinary one of its kind. Returns 0, or -1 for what user space is to have.
 */
static __always_inline int parse_payload(const struct packet *p, __u16 kind)
{
	const __u32 length = p->total - sizeof(struct iphdr);

	if (kind == KIND_GRE) {
		const struct gre_header *gre = p->payload;
		const __u32 word = bpf_ntohl(gre->word);
		__u32 header = sizeof(*gre);

		if ((word & ~(GRE_SEQUENCE | GRE_ACKNOWLEDGMENT)) != GRE_PPTP)
			return -1;
		header += word & GRE_SEQUENCE ? 4 : 0;
		header += word & GRE_ACKNOWLEDGMENT ? 4 : 0;
		return header + bpf_ntohs(gre->payload) > length ? -1 : 0;
	}
	if (kind == KIND_ESP) {
		const struct esp_header *esp = p->payload;

		return length < sizeof(*esp) || bpf_ntohl(esp->sequence) < ESP_FIRST_FEW ? -1 : 0;
	}
	if (kind == KIND_NATT || kind == KIND_UDP) {
		const struct udp_header *udp = p->payload;

		if (length < sizeof(*udp) || bpf_ntohs(udp->length) != length)
			return -1;
		if (kind == KIND_UDP)
			return 0;
		/* IKE has a marker in place of the SPI, and a keepalive has neither. */
		if (length < sizeof(*udp) + sizeof(struct esp_header) || !HAS(p, struct esp_header, sizeof(*udp)))
			return -1;
		return ((const struct esp_header *)(udp + 1))->spi ? 0 : -1;
	}
	return 0;
}

#endif
