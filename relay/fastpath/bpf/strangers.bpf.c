// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Keeps strangers' packets from a raw socket: user space has told us of the addresses outside that somebody
 * inside talks with. What others send costs the kernel one lookup and user space nothing, however much it is.
 *
 * Some of it goes through nevertheless, so that user space sees who it is, and meets those that it does not
 * know yet but may.
 */
#include <linux/bpf.h>
#include <linux/ip.h>

#include <bpf/bpf_helpers.h>

#include "stack.h"

/* Octets of the packet that the socket gets. */
#define WHOLE 0xffffffff
#define NOTHING 0

/* Nanoseconds between two strangers' packets that go through. */
#define LOOK 10000000

/* Fields as the tries of the kernel want them; relay/sockets/strangers.py is the other side. */
struct host {
	__u32 protocol;
	__be32 address;
};
_Static_assert(sizeof(struct host) == 8, "struct host");

struct network {
	__u32 length; /* bits that count, of the protocol and of the address */
	struct host host;
};
_Static_assert(sizeof(struct network) == 12, "struct network");

/* A network as it is written (stack.h); its host begins with a word of eight octets. */
union written {
	struct {
		__u32 nothing;
		struct network network;
	};
	__u64 words[2];
};

struct tally {
	__u64 kept_out;
	__u64 seen_at; /* when the last one went through */
};
_Static_assert(sizeof(struct tally) == 16, "struct tally");

/* Who is known. User space sets the size before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct host);
	__type(value, __u8);
	__uint(max_entries, 2);
} heeded SEC(".maps");

/* Whom the rules name. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network);
	__type(value, __u8);
	__uint(max_entries, 4096);
} named SEC(".maps");

/* By protocol. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct tally);
	__uint(max_entries, 256);
} tallies SEC(".maps");

SEC("socket")
int strangers(struct __sk_buff *skb)
{
	union written sender;
	struct tally *tally;
	struct iphdr ip;
	__u64 now;

	if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET))
		return WHOLE;
	sender.words[0] = two_words(0, 8 * sizeof(struct host));
	sender.words[1] = two_words(ip.protocol, ip.saddr);
	if (bpf_map_lookup_elem(&heeded, &sender.network.host) || bpf_map_lookup_elem(&named, &sender.network))
		return WHOLE;
	tally = bpf_map_lookup_elem(&tallies, &sender.network.host.protocol);
	if (!tally)
		return WHOLE;
	now = bpf_ktime_get_coarse_ns();
	if (now - tally->seen_at >= LOOK) {
		tally->seen_at = now;
		return WHOLE;
	}
	__sync_fetch_and_add(&tally->kept_out, 1);
	return NOTHING;
}

char LICENSE[] SEC("license") = "GPL";
