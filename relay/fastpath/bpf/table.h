/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of flows: open addressing with linear probing. User space alone puts flows in and takes them out
 * (relay/fastpath/table.py, which has the same hash); where one lies decides only how long it takes to find it.
 * The kernel's own hash maps take three cache lines for what this does with one.
 */
#ifndef VPNMASQ_TABLE_H
#define VPNMASQ_TABLE_H

#include "maps.h"
#include "parse.h"

/* 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, 6.4) */
#define GOLDEN 0x9e3779b97f4a7c15

/* No line */
#define NOWHERE 0xffffffff

/* The line where the search for a flow begins. */
static __always_inline __u32 home(const union key *key, const struct control *control)
{
	__u64 hash = (key->words[0] ^ control->seed[0]) * GOLDEN;

	hash = (hash ^ hash >> 32 ^ key->words[1] ^ control->seed[1]) * GOLDEN;
	hash = (hash ^ hash >> 32) * GOLDEN;
	return (hash >> 32) * control->homes >> 32;
}

static __always_inline int is(const struct flow *flow, __u64 first, __u64 second)
{
	return flow->key.words[0] == first && flow->key.words[1] == second;
}

/*
 * The line behind its home where the flow with this key is, or NOWHERE. A global function of numbers: verifiers
 * look at it once, and not at what may follow each round. Without CAP_PERFMON they do not see a loop's end.
 */
__noinline __u32 behind(__u64 first, __u64 second, __u32 line, __u32 reach)
{
	const __u32 last = line + reach;

#pragma unroll
	for (int i = 0; i < MOST_REACH; i++) {
		struct flow *flow;

		if (line == last)
			break;
		line++;
		flow = bpf_map_lookup_elem(&flows, &line);
		if (flow && is(flow, first, second))
			return line;
	}
	return NOWHERE;
}

/*
 * The line of the flow with this key, or NOWHERE. Not the flow itself: a verifier that knows of a null before it is
 * asked for goes on with it as a processor might, and then refuses that (Linux 6.1, without CAP_PERFMON).
 */
static __always_inline __u32 find(const union key *key, const struct control *control)
{
	__u32 line = home(key, control);
	const struct flow *flow = bpf_map_lookup_elem(&flows, &line);

	if (flow && !is(flow, key->words[0], key->words[1]))
		line = flow->reach ? behind(key->words[0], key->words[1], line, flow->reach) : NOWHERE;
	return line;
}

/* The line of the packet's flow, or NOWHERE. */
static __always_inline __u32 lookup(const struct packet *p, enum side side, const struct control *control)
{
	const __u8 protocol = p->ip->protocol;
	union key key;
	__u32 line;

	parse_key(p, side, &key);
	line = find(&key, control);
	/*
	 * Any SPI may be of ESP that is forwarded whole, for there are no pairs of ESP beside that; and any Call ID of GRE,
	 * if there are no calls: one may not be sure yet, and user space is to say whose it is.
	 */
	if (line == NOWHERE && (protocol == IPPROTO_ESP || (protocol == IPPROTO_GRE && !control->pptp))) {
		write_key(p, side, 0, 1, &key);
		line = find(&key, control);
	}
	return line;
}

#endif
