/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What lies on the stack is written eight octets at a time: verifiers before Linux 6.8 take half of that, after
 * the other half, for an attempt on a pointer, unless one has CAP_PERFMON.
 */
#ifndef VPNMASQ_STACK_H
#define VPNMASQ_STACK_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

/* Two words as they lie in memory, the first one first. */
static __always_inline __u64 two_words(__u32 first, __u32 second)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return first | (__u64)second << 32;
#else
	return (__u64)first << 32 | second;
#endif
}

#endif
