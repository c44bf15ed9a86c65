// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sends prebuilt frames, round and round and at a pace, for as long as it is run (BPF_PROG_TEST_RUN with live
 * frames). The kernel keeps frames ready that are all alike; the beginning, which differs, is copied into each.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

/* Ethernet, IP and the first of what follows: 8-octet words. */
#define WORDS 7

/* Nanoseconds that may be made up for at once; more is lost. */
#define MOST_BEHIND 200000

struct head {
	__u64 words[WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct head);
	__uint(max_entries, 1);
} heads SEC(".maps");

struct load {
	__u32 interface;
	__u32 heads;
	__u32 next;
	__u32 pace; /* nanoseconds between two frames; 0: as many as it can */
	__u64 due; /* CLOCK_MONOTONIC, nanoseconds: the next one */
	__u64 sent;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct load);
	__uint(max_entries, 1);
} loads SEC(".maps");

static __always_inline int is_due(struct load *load)
{
	__u64 now;

	if (!load->pace)
		return 1;
	now = bpf_ktime_get_ns();
	if (now < load->due)
		return 0;
	if (load->due + MOST_BEHIND < now)
		load->due = now;
	load->due += load->pace;
	return 1;
}

SEC("xdp")
int send(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data;
	struct head *head, *into = data;
	struct load *load;
	__u32 at = 0;

	load = bpf_map_lookup_elem(&loads, &at);
	if (!load || data + sizeof(*into) > (void *)(long)xdp->data_end || !is_due(load))
		return XDP_DROP;
	at = load->next;
	load->next = at + 1 < load->heads ? at + 1 : 0;
	load->sent++;
	head = bpf_map_lookup_elem(&heads, &at);
	if (!head)
		return XDP_DROP;
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		into->words[i] = head->words[i];
	return bpf_redirect(load->interface, 0);
}

char LICENSE[] SEC("license") = "GPL";
