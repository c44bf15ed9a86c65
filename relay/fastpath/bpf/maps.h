/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VPNMASQ_MAPS_H
#define VPNMASQ_MAPS_H

#include "flow.h"

/* A hash table (table.h). User space sets its size before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow);
	__uint(max_entries, 1);
} flows SEC(".maps");

/* Ways out, few of them, so that a changed route is one write for all its flows. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct hop);
	__uint(max_entries, MOST_HOPS);
} hops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct control);
	__uint(max_entries, 1);
} controls SEC(".maps");

/* By their number, interfaces whose drivers run our programs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64); /* eight octets: it lies on the stack (stack.h) */
	__type(value, struct station);
	__uint(max_entries, MOST_STATIONS);
} stations SEC(".maps");

#endif
