/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VPNMASQ_MAPS_H
#define VPNMASQ_MAPS_H

#include "flow.h"

/* What a packet carries -> its flow's slot. User space sets the sizes of this and the next before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, __u32);
	__uint(max_entries, 2);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct slot);
	__uint(max_entries, 2);
} slots SEC(".maps");

/* Ways out, few of them, so that a changed route is one write for all its flows. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct hop);
	__uint(max_entries, MOST_HOPS);
} hops SEC(".maps");

/*
 * Until when the flows hold (CLOCK_MONOTONIC, nanoseconds): attached by clsact a program outlives user space,
 * and must not go on by what nobody looks after any more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} lease SEC(".maps");

#endif
